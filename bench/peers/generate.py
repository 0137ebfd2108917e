"""Greedy continuation by transformers.generate on a left-padded batch of all prompts. Needs torch, transformers.
Usage: generate.py SETTINGS (JSON: model, prompts, dtype, new_tokens, stop_ids, threads, device)."""
import json, sys

import torch
from transformers import AutoModelForCausalLM

from device import attention, memory, prepare, timed

s = json.loads(sys.argv[1])
device = prepare(s)
dtype = torch.bfloat16 if s["dtype"] == "bf16" else torch.float32
model = AutoModelForCausalLM.from_pretrained(s["model"], dtype=dtype, attn_implementation=attention(s)).to(device).eval()
prompts = json.load(open(s["prompts"], encoding="utf-8"))
longest = max(map(len, prompts))
padded = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)


def generate(rows, new_tokens):
    with torch.no_grad():
        return model.generate(input_ids=padded[:rows], attention_mask=mask[:rows], max_new_tokens=new_tokens, do_sample=False,
                              eos_token_id=s["stop_ids"] or None, pad_token_id=0, use_cache=True)[:, longest:].tolist()


generate(1, 2)
seconds, generated = timed(s, lambda: generate(len(prompts), s["new_tokens"]))
stops = set(s["stop_ids"])
ends = [next((i + 1 for i, token in enumerate(tokens) if token in stops), None) for tokens in generated]
print(json.dumps({"seconds": seconds, "new_tokens": sum(end or len(tokens) for end, tokens in zip(ends, generated)),
                  "ended": sum(end is not None for end in ends), "first_tokens": generated[0][: ends[0]], **memory(s)}))
