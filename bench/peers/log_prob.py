"""Log-probabilities and entropies under a linear head, a chunk of rows at a time so that the logits
never lie in memory together, and the gradient of the hidden states: eager, compiled."""
import math

import torch
import torch.nn.functional as F

from common import F32, Results, compiled, normal, shapes, start

CHUNK = 2048  # rows


def log_prob(x, w, targets, temperature):
    z = F.linear(x, w).float() / temperature
    lse = torch.logsumexp(z, -1)
    chosen = z.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - lse, lse - (torch.softmax(z, -1) * z).sum(-1)


def gradient_of(function):
    def gradient(x, w, targets, temperature, dy):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y, _ = function(x, w, targets, temperature)
            return torch.autograd.grad(y, x, dy)[0]

    return gradient


def chunked(function, w, temperature, rows):
    """function over chunks of the tensors of rows."""
    x, targets, *rest = rows
    return [function(a, w, t, temperature, *more) for a, t, *more in zip(
        x.split(CHUNK), targets.split(CHUNK), *(r.split(CHUNK) for r in rest))]


def add(results: Results, s: dict) -> None:
    rows, columns, k, name = s["rows"], s["columns"], s["k"], s["name"]
    temperature = math.sqrt(k) / 3

    def make():
        targets = torch.arange(rows, device="cuda") * 7919 % columns
        return normal(columns, k), [normal(rows, k), targets]

    def make_backward():
        w, o = make()
        return w, [*o, normal(rows, dtype=F32)]

    for variant in ("eager", "compiled"):
        function = log_prob if variant == "eager" else compiled(log_prob)
        results.add(f"linear_log_prob/{name}", variant, make,
                    lambda o: chunked(function, o[0], temperature, o[1]))
        gradient = gradient_of(function)
        results.add(f"linear_log_prob_dx/{name}", variant, make_backward,
                    lambda o: chunked(gradient, o[0], temperature, o[1]))


@torch.no_grad()
def main() -> None:
    results = start("log_prob")
    for s in shapes("log_prob"):
        add(results, s)


if __name__ == "__main__":
    main()
