"""The decode step in bf16: scaled_dot_product_attention of one query a sequence over its whole
cache, which holds the prompt once a sequence, by the backends that take a mask of lengths (or,
where all are equal, none); and F.linear of few rows, plain and with a low-rank adapter."""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import Results, compiled, normal, shapes, start

BACKENDS = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION",
            "efficient": "EFFICIENT_ATTENTION", "math": "MATH"}


def attend(q, k, v, mask=None):
    grouped = q.size(1) != k.size(1)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


def add_attention(results: Results, s: dict) -> None:
    batch, d = s["prompts"] * s["group"], s["d"]
    keys = s["own"] + 1 + s.get("prefix", 0)
    name = f"decode_attention/{s['name']}"

    def make():
        # [B, H, T, D] in memory: the better layout for these kernels.
        return (normal(batch, s["heads"], 1, d), normal(batch, s["kv_heads"], keys, d),
                normal(batch, s["kv_heads"], keys, d),
                torch.ones(batch, 1, 1, keys, dtype=torch.bool, device="cuda"))

    for variant, backend in BACKENDS.items():
        which = getattr(SDPBackend, backend, None)

        def run(o):
            with sdpa_kernel(which):
                return attend(*o[:3])

        def run_masked(o):
            with sdpa_kernel(which):
                return attend(*o)

        results.add(name, f"sdpa {variant}", make, run)
        if variant != "flash":  # takes no mask
            results.add(name, f"sdpa {variant}, mask", make, run_masked)
    fast = compiled(attend)
    results.add(name, "sdpa compiled, own choice", make, lambda o: fast(*o))


def adapted(x, w, a, b):
    return F.linear(x, w) + F.linear(F.linear(x, a), b) * 1.0


def add_linear(results: Results, s: dict) -> None:
    m, n, k, rank = s["m"], s["n"], s["k"], s.get("rank", 0)
    name = f"skinny_linear/{s['name']}"
    fast = compiled(F.linear)
    results.add(name, "F.linear", lambda: (normal(m, k), normal(n, k)), lambda o: F.linear(*o))
    results.add(name, "F.linear compiled", lambda: (normal(m, k), normal(n, k)),
                lambda o: fast(*o))
    if rank == 0:
        return

    def make():
        return normal(m, k), normal(n, k), normal(rank, k), normal(n, rank)

    name = f"skinny_lora/{s['name']}"
    fast_lora = compiled(adapted)
    results.add(name, "torch eager", make, lambda o: adapted(*o))
    results.add(name, "torch compiled", make, lambda o: fast_lora(*o))


@torch.no_grad()
def main() -> None:
    results = start("decode")
    for s in shapes("decode"):
        add_attention(results, s)
    for s in shapes("skinny"):
        add_linear(results, s)


if __name__ == "__main__":
    main()
