"""RoPE alone and behind the norms of a projection, gate and residual, SwiGLU, GELU and its gradient,
softmax, AdamW and the flow sampler's step: eager and compiled."""
import math

import torch
import torch.nn.functional as F

from common import F32, Results, compiled, normal, shapes, start


def rope(x, cos, sin):  # x [B, T, H, D]; cos, sin [T, D/2]; neighbours are pairs
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)


def qk_norm_rope(qkv, wq, wk, cos, sin):  # qkv [B, T, 3, H, D]; v is a view
    q, k, v = qkv.unbind(2)
    d = qkv.shape[-1:]
    return (rope(F.rms_norm(q, d, wq, eps=1e-6), cos, sin),
            rope(F.rms_norm(k, d, wk, eps=1e-6), cos, sin), v)


def swiglu(x):  # [R, 2 F]
    a, b = x.chunk(2, -1)
    return F.silu(a) * b


def gate_residual(residual, gate, y):  # [B, T, C], gate [B, C]
    return residual + gate.unsqueeze(1) * y


def gelu(x):
    return F.gelu(x, approximate="tanh")


def gelu_backward(x, dy):
    return torch.ops.aten.gelu_backward(dy, x, approximate="tanh")


def softmax(x):
    return torch.softmax(x, -1)


def flow_step(x, v):
    """The SDE step at s 0.8 -> 0.7, noise level 0.7, with its log-probability."""
    s, dt, level = 0.8, -0.1, 0.7 * math.sqrt(0.8 / 0.2)
    std = level * math.sqrt(-dt)
    mean = x * (1 + level**2 * dt / (2 * s)) + v * ((1 + level**2 * (1 - s) / (2 * s)) * dt)
    z = torch.randn_like(x)
    following = mean + std * z
    log_prob = -((following.detach() - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(
        2 * math.pi)
    return following, log_prob.mean(-1), mean


def flow_loss(x, v, following, old, advantage, ref):
    """Clipped policy loss with the KL to the reference, and its gradient with respect to v."""
    s, dt, level = 0.8, -0.1, 0.7 * math.sqrt(0.8 / 0.2)
    std, cx = level * math.sqrt(-dt), 1 + level**2 * dt / (2 * s)
    cv = (1 + level**2 * (1 - s) / (2 * s)) * dt
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        mean = cx * x + cv * v
        log_prob = (-((following - mean) ** 2) / (2 * std**2) - math.log(std) - 0.5 * math.log(
            2 * math.pi)).mean(-1)
        ratio = torch.exp(log_prob - old)
        policy = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - 1e-4, 1 + 1e-4))
        kl = ((mean - (cx * x + cv * ref)) ** 2).mean(-1) / (2 * level**2)
        loss = policy + 0.01 * kl
        (dv,) = torch.autograd.grad(loss.sum(), v)
    return loss, ratio, kl, dv


def both(results: Results, name: str, function, make, graph: bool = True) -> None:
    results.add(name, "eager", make, lambda o: function(*o), graph)
    fast = compiled(function)
    results.add(name, "compiled", make, lambda o: fast(*o), graph)


def both_backward(results: Results, name: str, function, make) -> None:
    """The gradient of the first operand."""
    for variant in ("eager", "compiled"):
        def prepare(call=function if variant == "eager" else compiled(function)):
            with torch.enable_grad():
                x, *rest = make()
                x.requires_grad_()
                y = call(x, *rest)
            y = y if isinstance(y, tuple) else (y,)
            return y, x, tuple(torch.randn_like(part) for part in y)

        results.add(name, variant, prepare,
                    lambda o: torch.autograd.grad(o[0], o[1], o[2], retain_graph=True))


def optimiser(n: int, average: bool):
    parameter = normal(n, dtype=F32, grad=True)
    parameter.grad = normal(n, dtype=F32)
    o = torch.optim.AdamW([parameter], lr=1e-3, fused=True, capturable=True)
    o.step()
    return o, parameter, [parameter.detach().clone()] if average else []


def optimiser_step(o) -> None:
    o[0].step()
    if o[2]:
        torch._foreach_lerp_(o[2], [o[1].detach()], 0.01)


def main() -> None:
    results = start("elementwise")
    with torch.no_grad():
        for s in shapes("flow_step"):
            def make():
                return normal(s["batch"], s["elements"], dtype=F32), normal(
                    s["batch"], s["elements"], dtype=F32)

            both(results, f"flow_step/{s['name']}", flow_step, make, graph=False)
            both(results, f"flow_step_graph/{s['name']}", flow_step, make)

            def make_loss():
                o = [normal(s["batch"], s["elements"], dtype=F32) for _ in range(4)]
                return o[0], o[1], o[2], normal(s["batch"], dtype=F32), normal(
                    s["batch"], dtype=F32), o[3]

            for what, graph in (("flow_loss", False), ("flow_loss_graph", True)):
                results.add(f"{what}/{s['name']}", "eager, autograd", make_loss,
                            lambda o: flow_loss(*o), graph)
        for s in shapes("elementwise"):
            batch, tokens, columns, name = s["batch"], s["tokens"], s["columns"], s["name"]
            heads, d, wide = s["heads"], s["d"], s["wide"]
            both(results, f"rope/{name}", rope, lambda: (
                normal(batch, tokens, heads, d), normal(tokens, d // 2, dtype=F32),
                normal(tokens, d // 2, dtype=F32)))
            def make_heads():
                return (normal(batch, tokens, 3, heads, d), normal(d), normal(d),
                        normal(tokens, d // 2, dtype=F32), normal(tokens, d // 2, dtype=F32))

            both(results, f"qk_norm_rope/{name}", qk_norm_rope, make_heads)
            both_backward(results, f"qk_norm_rope_backward/{name}", qk_norm_rope, make_heads)
            both(results, f"gate_residual/{name}", gate_residual, lambda: (
                normal(batch, tokens, columns), normal(batch, columns),
                normal(batch, tokens, columns)))
            both(results, f"gelu_tanh/{name}", gelu, lambda: (normal(batch * tokens, wide),))
            both(results, f"gelu_tanh_backward/{name}", gelu_backward, lambda: (
                normal(batch * tokens, wide), normal(batch * tokens, wide)))
        for s in shapes("swiglu"):
            def make_rows():
                return (normal(s["rows"], 2 * s["columns"]),)

            both(results, f"swiglu/{s['name']}", swiglu, make_rows)
            both_backward(results, f"swiglu_backward/{s['name']}", swiglu, make_rows)
        for s in shapes("softmax"):
            both(results, f"softmax/{s['name']}", softmax, lambda: (
                normal(s["rows"], s["columns"]),))
    for s in shapes("adamw"):
        results.add(f"adamw/{s['name']}", "fused", lambda: optimiser(s["elements"], False),
                    optimiser_step)
        results.add(f"adamw_ema/{s['name']}", "fused, foreach average",
                    lambda: optimiser(s["elements"], True), optimiser_step)


if __name__ == "__main__":
    main()
