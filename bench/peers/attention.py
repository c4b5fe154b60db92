"""scaled_dot_product_attention in bf16, its backend forced: cuDNN and flash. Left to choose, torch
may take the slower one. Tensors are [B, T, H, D] in memory, as in parlo."""
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from common import compiled, normal, shapes, start

BACKENDS = {"cudnn": "CUDNN_ATTENTION", "flash": "FLASH_ATTENTION"}


def backend(variant: str) -> SDPBackend:
    return getattr(SDPBackend, BACKENDS[variant])


def forward(q, k, v, causal: bool):
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2),
                                         is_causal=causal)
    return out.transpose(1, 2)


def joint(parts, causal: bool, text: int):
    """Image and text tokens in tensors of their own: torch must join them and part the result."""
    out = forward(*(torch.cat(pair, 1) for pair in parts), causal)
    return out.split([out.shape[1] - text, text], 1)


def add_joint(results, s, text: int, variant: str, which) -> None:
    def build(grad: bool):
        shapes_of = [(s["batch"], n, s["heads"], s["d"]) for n in (s["tokens"] - text, text)]
        return [[normal(*shape, grad=grad) for shape in shapes_of] for _ in range(3)]

    def run(parts):
        with torch.no_grad(), sdpa_kernel(which):
            return joint(parts, False, text)

    def make_backward():
        parts = build(True)
        with sdpa_kernel(which):
            outs = joint(parts, False, text)
        return outs, [x for pair in parts for x in pair], [torch.randn_like(y) for y in outs]

    def backward(o):
        return torch.autograd.grad(o[0], o[1], o[2], retain_graph=True)

    results.add(f"joint_attention_forward/{s['name']}", f"cat, sdpa {variant}, split",
                lambda: build(False), run)
    results.add(f"joint_attention_backward/{s['name']}", f"cat, sdpa {variant}, split",
                make_backward, backward)


def main() -> None:
    results = start("attention")
    for s in shapes("attention"):
        size, causal = (s["batch"], s["tokens"], s["heads"], s["d"]), s.get("causal", False)

        def make():
            return tuple(normal(*size) for _ in range(3))

        def make_backward(which):
            def build():
                inputs = tuple(normal(*size, grad=True) for _ in range(3))
                with sdpa_kernel(which):
                    return forward(*inputs, causal), inputs, normal(*size)

            return build

        def backward(o):
            return torch.autograd.grad(o[0], o[1], o[2], retain_graph=True)

        for variant in BACKENDS:
            which = backend(variant) if hasattr(SDPBackend, BACKENDS[variant]) else None

            def run(o):
                with torch.no_grad(), sdpa_kernel(which):
                    return forward(*o, causal)

            name = s["name"]
            results.add(f"attention_forward/{name}", f"sdpa {variant}", make, run)
            results.add(f"attention_backward/{name}", f"sdpa {variant}", make_backward(which),
                        backward)
            if text := s.get("text", 0):
                add_joint(results, s, text, variant, which)
        # Whatever torch takes by itself under torch.compile.
        fast = compiled(forward)

        def run_fast(o):
            with torch.no_grad():
                return fast(*o, causal)

        results.add(f"attention_forward/{s['name']}", "sdpa compiled, own choice", make, run_fast)


if __name__ == "__main__":
    main()
