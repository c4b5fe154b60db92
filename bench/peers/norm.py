"""Layer norm with modulation and its gradient, RMS norm over rows, per head, and of a sum that is
kept, with its gradient: eager, compiled."""
import torch
import torch.nn.functional as F

from common import Results, compiled, normal, shapes, start


def modulated(x, scale, shift):  # x [B, T, C]; scale, shift [B, C]
    y = F.layer_norm(x, (x.shape[-1],), eps=1e-6)
    return y * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def rms(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, eps=1e-6)


def rms_of_sum(x, residual, weight):
    total = x + residual
    return total, rms(total, weight)


def add_sum_backward(results: Results, name: str, rows: int, columns: int) -> None:
    for variant in ("eager", "compiled"):
        def make(function=rms_of_sum if variant == "eager" else compiled(rms_of_sum)):
            x, residual = (normal(rows, columns, grad=True) for _ in range(2))
            grads = normal(rows, columns), normal(rows, columns)
            return function(x, residual, normal(columns)), (x, residual), grads

        results.add(name, variant, make,
                    lambda o: torch.autograd.grad(o[0], o[1], o[2], retain_graph=True))


def add_backward(results: Results, name: str, batch: int, tokens: int, columns: int) -> None:
    for variant in ("eager", "compiled"):
        def make(function=modulated if variant == "eager" else compiled(modulated)):
            x = normal(batch, tokens, columns, grad=True)
            return function(x, normal(batch, columns), normal(batch, columns)), x, normal(
                batch, tokens, columns)

        results.add(name, variant, make,
                    lambda o: torch.autograd.grad(o[0], o[1], o[2], retain_graph=True))


def main() -> None:
    results = start("norm")
    for s in shapes("norm"):
        batch, tokens, columns, name = s["batch"], s["tokens"], s["columns"], s["name"]
        heads, d = s["heads"], s["d"]
        cases = [
            ("layer_norm_modulated", modulated, lambda: (
                normal(batch, tokens, columns), normal(batch, columns), normal(batch, columns))),
            ("rms_norm", rms, lambda: (normal(batch * tokens, columns), normal(columns))),
            ("add_rms_norm", rms_of_sum, lambda: (
                normal(batch * tokens, columns), normal(batch * tokens, columns),
                normal(columns))),
            ("qk_norm", rms, lambda: (normal(batch * tokens * heads, d), normal(d))),
        ]
        with torch.no_grad():
            for what, function, make in cases:
                results.add(f"{what}/{name}", "eager", make, lambda o: function(*o))
                fast = compiled(function)
                results.add(f"{what}/{name}", "compiled", make, lambda o: fast(*o))
        add_sum_backward(results, f"add_rms_norm_backward/{name}", batch * tokens, columns)
        add_backward(results, f"layer_norm_modulated_backward/{name}", batch, tokens, columns)


if __name__ == "__main__":
    main()
