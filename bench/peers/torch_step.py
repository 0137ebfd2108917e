"""One forward pass and one preference step (AdamW) in PyTorch on equal-length random tokens: what `side/step.rs` does in bso.
Needs torch, transformers. Usage: torch_step.py SETTINGS (JSON: model, dtype, sequences, tokens, steps, warm_up, threads).
Tokens: s <- (1664525 s + 1013904223) mod 2^32 from 12345, token (s >> 8) mod vocabulary. The second half of a sequence is the response;
sequences 2i and 2i + 1 are a pair; loss: mean of -log sigmoid(0.1 (lp_w - lp_l - ref_i)), ref from -1 to 1. Logits of responses only."""
import json, statistics, sys, time

import torch
import torch.nn.functional as F
import transformers

s = json.loads(sys.argv[1])
torch.set_num_threads(s["threads"])
model = transformers.AutoModelForCausalLM.from_pretrained(s["model"], dtype=torch.float32, attn_implementation="sdpa")
model.config.use_cache = False
model.train()
rows, length, half = s["sequences"], s["tokens"], s["tokens"] // 2
vocabulary, state, tokens = model.config.vocab_size, 12345, []
for _ in range(rows * length):
    state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
    tokens.append((state >> 8) % vocabulary)
tokens = torch.tensor(tokens).view(rows, length)
reference = torch.linspace(-1, 1, rows // 2)


def log_probs():
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=s["dtype"] == "bf16"):
        logits = model.lm_head(model.model(input_ids=tokens).last_hidden_state[:, half - 1 : -1])
        losses = F.cross_entropy(logits.float().reshape(-1, vocabulary), tokens[:, half:].reshape(-1), reduction="none")
        return -losses.view(rows, -1).sum(-1)


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def step():
    optimiser.zero_grad(set_to_none=True)
    lp = log_probs()
    loss = -F.logsigmoid(0.1 * (lp[0::2] - lp[1::2] - reference)).mean()
    loss.backward()
    optimiser.step()
    return round(loss.item(), 6)


optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.01, fused=True)
passes = s["warm_up"] + s["steps"]
with torch.no_grad():
    forward = [timed(lambda: log_probs().sum().item())[0] for _ in range(passes)]
steps = [timed(step) for _ in range(passes)]
print(json.dumps({
    "forward_seconds": statistics.median(forward[s["warm_up"]:]),
    "step_seconds": statistics.median([seconds for seconds, _ in steps][s["warm_up"]:]),
    "losses": [loss for _, loss in steps],
    "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
}))
