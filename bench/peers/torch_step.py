"""One forward pass and one preference step in PyTorch on equal-length random tokens: what `side/step.rs` does in bso.
Needs torch, transformers, for an adapter peft. Usage: torch_step.py SETTINGS (JSON: model, dtype, sequences, tokens, steps, warm_up,
method, optimiser, peer_weights, device, threads).
Tokens: s <- (1664525 s + 1013904223) mod 2^32 from 12345, token (s >> 8) mod vocabulary. The second half of a sequence is the response;
sequences 2i and 2i + 1 are a pair; loss: mean of -log sigmoid(0.1 (lp_w - lp_l - ref_i)), ref from -1 to 1. Logits of responses only."""
import json, statistics, sys

import torch
import torch.nn.functional as F
import transformers

from device import adapter, attention, memory, prepare, timed, weights

s = json.loads(sys.argv[1])
device = prepare(s)
lora = s["method"].startswith("lora")
model = transformers.AutoModelForCausalLM.from_pretrained(s["model"], dtype=weights(s, lora), attn_implementation=attention(s)).to(device)
model.config.use_cache = False
if lora:
    import peft
    model = peft.get_peft_model(model, adapter())
if s["method"].endswith("checkpointed"):
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
model.train()
causal = model.get_base_model() if lora else model
rows, length, half = s["sequences"], s["tokens"], s["tokens"] // 2
vocabulary, state, tokens = causal.config.vocab_size, 12345, []
for _ in range(rows * length):
    state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
    tokens.append((state >> 8) % vocabulary)
tokens = torch.tensor(tokens, device=device).view(rows, length)
reference = torch.linspace(-1, 1, rows // 2, device=device)


def log_probs():
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=s["dtype"] == "bf16"):
        logits = causal.lm_head(causal.model(input_ids=tokens).last_hidden_state[:, half - 1 : -1])
        losses = F.cross_entropy(logits.float().reshape(-1, vocabulary), tokens[:, half:].reshape(-1), reduction="none")
        return -losses.view(rows, -1).sum(-1)


def step():
    optimiser.zero_grad(set_to_none=True)
    lp = log_probs()
    loss = -F.logsigmoid(0.1 * (lp[0::2] - lp[1::2] - reference)).mean()
    loss.backward()
    optimiser.step()
    return round(loss.item(), 6)


trained = [p for p in model.parameters() if p.requires_grad]
if s["optimiser"] == "rmsprop":
    optimiser = torch.optim.RMSprop(trained, lr=1e-6, weight_decay=0.01)
else:
    optimiser = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.01, fused=True)
passes = s["warm_up"] + s["steps"]
forward = []
if s["forward"]:
    with torch.no_grad():
        forward = [timed(s, lambda: log_probs().sum().item())[0] for _ in range(passes)]
steps = [timed(s, step) for _ in range(passes)]
print(json.dumps({
    "forward_seconds": statistics.median(forward[s["warm_up"]:]) if forward else None,
    "step_seconds": statistics.median([seconds for seconds, _ in steps][s["warm_up"]:]),
    "losses": [loss for _, loss in steps],
    "versions": f"torch {torch.__version__} {attention(s)}, transformers {transformers.__version__}",
    **memory(s),
}))
