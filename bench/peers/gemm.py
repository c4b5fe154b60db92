"""F.linear in bf16 at the presets' shapes: plain, gradient of the input, bias and GELU, SwiGLU of
its halves, and a low-rank adapter (peft's LoRA where it is installed, and its arithmetic as plain
torch)."""
import torch
import torch.nn.functional as F

from common import BF16, Results, compiled, normal, shapes, start


def gelu(x, w, bias):
    return F.gelu(F.linear(x, w, bias), approximate="tanh")


def gelu_kept(x, w, bias):
    pre = F.linear(x, w, bias)
    return F.gelu(pre, approximate="tanh"), pre


def adapted(x, w, a, b):
    return F.linear(x, w) + F.linear(F.linear(x, a), b) * 1.0


def adapted_rows(x, w, low):
    """Adapters on every second part of the rows; the parts between have none."""
    y = F.linear(x, w)
    for first, a, b in low:
        rows = slice(first, first + x.shape[0] // 4)
        y[rows] += F.linear(F.linear(x[rows], a), b) * 1.0
    return y


def adapted_dx(dy, w, down, a):
    return torch.addmm(torch.mm(dy, w), down, a)


def gelu_residual(x, w, bias, residual):
    pre = F.linear(x, w, bias)
    return F.gelu(pre, approximate="tanh") + residual, pre


def gated(x, w):
    gate, up = F.linear(x, w).chunk(2, dim=-1)
    return F.silu(gate) * up


def gated_kept(x, w):
    halves = F.linear(x, w)
    gate, up = halves.chunk(2, dim=-1)
    return F.silu(gate) * up, halves


def peft_layer(n: int, k: int, rank: int) -> torch.nn.Module:
    import peft

    config = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["0"], init_lora_weights=False)
    with torch.device("cuda"):
        holder = torch.nn.Sequential(torch.nn.Linear(k, n, bias=False, dtype=BF16))
        holder = peft.inject_adapter_in_model(config, holder)
    return holder.to("cuda", BF16).requires_grad_(False)


def add_adapters(results: Results, s: dict) -> None:
    m, n, k, r = s["m"], s["n"], s["k"], s["rank"]
    name = f"lora/{s['name']}"

    def make():
        return normal(m, k), normal(n, k), normal(r, k), normal(n, r)

    results.add(name, "torch eager", make, lambda o: adapted(*o))
    fast = compiled(adapted)
    results.add(name, "torch compiled", make, lambda o: fast(*o))
    results.add(name, "peft eager", lambda: (peft_layer(n, k, r), normal(m, k)),
                lambda o: o[0](o[1]))
    results.add(f"lora_rows/{s['name']}", "torch eager",
                lambda: (normal(m, k), normal(n, k),
                         [(m * i // 4, normal(r, k), normal(n, r)) for i in (0, 2)]),
                lambda o: adapted_rows(*o))
    results.add(f"lora_dx/{s['name']}", "torch eager",
                lambda: (normal(m, n), normal(n, k), normal(m, r), normal(r, k)),
                lambda o: adapted_dx(*o))
    results.add(f"lora_da/{s['name']}", "torch.mm", lambda: (normal(m, r), normal(m, k)),
                lambda o: torch.mm(o[0].t(), o[1]))


def add_gated(results: Results, s: dict) -> None:
    def make():
        return normal(s["m"], s["k"]), normal(2 * s["n"], s["k"])

    for what, function in (("glu_linear", gated), ("glu_linear_kept", gated_kept)):
        for how, call in (("eager", function), ("compiled", compiled(function))):
            results.add(f"{what}/{s['name']}", how, make, lambda o, call=call: call(*o))


@torch.no_grad()
def main() -> None:
    results = start("gemm")
    for s in shapes("glu_linear"):
        add_gated(results, s)
    for s in shapes("gemm"):
        m, n, k, name = s["m"], s["n"], s["k"], s["name"]
        results.add(f"gemm/{name}", "F.linear", lambda: (normal(m, k), normal(n, k)),
                    lambda o: F.linear(*o))
        if s.get("dx"):
            results.add(f"gemm_dx/{name}", "torch.mm", lambda: (normal(m, n), normal(n, k)),
                        lambda o: torch.mm(*o))
        if s.get("gelu"):
            def make():
                return normal(m, k), normal(n, k), normal(n)

            for what, function in (("linear_gelu", gelu), ("linear_gelu_kept", gelu_kept)):
                results.add(f"{what}/{name}", "eager", make, lambda o: function(*o))
                fast = compiled(function)
                results.add(f"{what}/{name}", "compiled", make, lambda o: fast(*o))
            def make_residual():
                return normal(m, k), normal(n, k), normal(n), normal(m, n)

            for how, function in (("eager", gelu_residual), ("compiled", compiled(gelu_residual))):
                results.add(f"linear_gelu_residual/{name}", how, make_residual,
                            lambda o: function(*o))
        if s.get("rank"):
            add_adapters(results, s)


if __name__ == "__main__":
    main()
