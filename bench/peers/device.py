"""Where a peer computes, and what it says of the memory there: shared by the peers. Needs torch.

On a GPU the best attention that is there is taken: FlashAttention where its package is installed, else PyTorch's own (SDPA, which
holds a FlashAttention itself for batches without padding)."""
import importlib.util
import time

import torch


def installed(package):
    return importlib.util.find_spec(package) is not None


def on_gpu(s):
    return s.get("device", "cpu") != "cpu"


def prepare(s):
    """The device of these settings."""
    torch.set_num_threads(s["threads"])
    return torch.device(s.get("device", "cpu"))


def attention(s):
    return "flash_attention_2" if on_gpu(s) and installed("flash_attn") else "sdpa"


def wait(s):
    """Until the GPU has done all that it was asked for."""
    if on_gpu(s):
        torch.cuda.synchronize()


def timed(s, work):
    wait(s)
    start = time.perf_counter()
    result = work()
    wait(s)
    return time.perf_counter() - start, result


def memory(s):
    """Most memory so far, MiB: in tensors, and taken from the driver for them."""
    if not on_gpu(s):
        return {}
    return {"allocated_mib": torch.cuda.max_memory_allocated() / 2**20, "reserved_mib": torch.cuda.max_memory_reserved() / 2**20}


def weights(s, lora):
    """Precision of stored weights: frozen ones in that of products; trained ones as the settings say."""
    if s["dtype"] == "bf16" and (lora or s.get("peer_weights") == "bf16"):
        return torch.bfloat16
    return torch.float32


def adapter():
    """The adapter of bso's side: rank 16 on every linear layer but the head, nothing dropped."""
    from peft import LoraConfig
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
