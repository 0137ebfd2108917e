"""The fastest large matrix product of PyTorch, f32 and bf16, in GFLOP/s. Needs torch. Usage: peak.py SETTINGS (JSON: size, seconds, threads)."""
import json, sys, time

import torch

s = json.loads(sys.argv[1])
torch.set_num_threads(s["threads"])
best, n = {}, s["size"]
for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
    best[name] = 0.0
    for rows, inner in ((n, n), (2 * n, n), (2 * n, n // 2)):
        a, b = torch.rand(rows, inner).to(dtype), torch.rand(n, inner).to(dtype)
        a @ b.T
        end = time.perf_counter() + s["seconds"]
        while time.perf_counter() < end:
            start = time.perf_counter()
            a @ b.T
            best[name] = max(best[name], 2e-9 * rows * inner * n / (time.perf_counter() - start))
print(json.dumps(best))
