"""The fastest large matrix product of PyTorch, f32 and bf16, in GFLOP/s. Needs torch.
Usage: peak.py SETTINGS (JSON: size, seconds, threads, device). f32 stays f32: TF32 is off, as it is in PyTorch by itself."""
import json, sys, time

import torch

from device import on_gpu, prepare, timed

s = json.loads(sys.argv[1])
device = prepare(s)
best, n = {}, s["size"]
for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
    best[name] = 0.0
    for rows, inner in ((n, n), (2 * n, n), (2 * n, n // 2)):
        a, b = torch.rand(rows, inner, device=device).to(dtype) - 0.5, torch.rand(n, inner, device=device).to(dtype) - 0.5
        a @ b.T
        end = time.perf_counter() + s["seconds"]
        while time.perf_counter() < end:
            best[name] = max(best[name], 2e-9 * rows * inner * n / timed(s, lambda: a @ b.T)[0])
if on_gpu(s):
    best["name"] = torch.cuda.get_device_name()
print(json.dumps(best))
