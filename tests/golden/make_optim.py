"""AdamW trajectories, gradient clipping, learning-rate schedules and flow-matching noise levels, in optim/.

adamw.safetensors       w0, grads[10], then for each run the weights after every step and the final moments
clip.safetensors        clip_grad_norm_ on two tensors, limits above and below the norm
flow_match.safetensors  sigmas and timesteps of FlowMatchEulerDiscreteScheduler
settings.json           hyper-parameters of the runs, and the schedules as lists

python tests/golden/make_optim.py"""
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import get_constant_schedule_with_warmup, get_cosine_schedule_with_warmup

from common import fresh, save_tensors, write_json

STEPS, SIZE = 10, 37
RUNS = {  # name: options of torch.optim.AdamW
    "eps8": dict(lr=3e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.1),
    "eps12": dict(lr=3e-2, betas=(0.9, 0.999), eps=1e-12, weight_decay=0.1),
    "plain": dict(lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0),
}


def adamw():
    generator = torch.Generator().manual_seed(71)
    w0 = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    grads = torch.randn(STEPS, SIZE, generator=generator, dtype=torch.float64)
    grads[:, :9] *= 3e-9  # where eps 1e-8 freezes the weight and 1e-12 does not
    grads[:, 9] = 0
    # Both precisions start from the same f32 values.
    w0, grads = w0.float().double(), grads.float().double()
    saved = {"w0.f64": w0, "grads.f64": grads}
    for name, options in RUNS.items():
        for dtype, suffix in ((torch.float64, "f64"), (torch.float32, "f32")):
            w = torch.nn.Parameter(w0.to(dtype, copy=True))
            optimizer = torch.optim.AdamW([w], foreach=False, fused=False, **options)
            path = []
            for g in grads:
                w.grad = g.to(dtype)
                optimizer.step()
                path.append(w.detach().clone())
            state = optimizer.state[w]
            saved |= {f"{name}.w.{suffix}": torch.stack(path), f"{name}.m.{suffix}": state["exp_avg"],
                      f"{name}.v.{suffix}": state["exp_avg_sq"]}
    return saved


def clipping():
    generator = torch.Generator().manual_seed(72)
    a, b = (torch.randn(*s, generator=generator, dtype=torch.float64) for s in ((5, 3), (7,)))
    saved = {"a.f64": a, "b.f64": b}
    for limit in (1.0, 100.0):
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in (a, b)]
        for p, g in zip(parameters, (a, b)):
            p.grad = g.clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        saved |= {f"max{limit:g}.{n}.f64": p.grad for n, p in zip("ab", parameters)}
        saved[f"max{limit:g}.norm.f64"] = norm
    return saved


def rates(make, steps):
    """The learning rates (base 1) that `steps` optimiser steps use."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer)
    values = []
    for _ in range(steps):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return values


def schedules():
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR
    return {
        "cosine_warmup_5_of_40": rates(lambda o: get_cosine_schedule_with_warmup(o, 5, 40), 41),
        "cosine_warmup_0_of_20": rates(lambda o: get_cosine_schedule_with_warmup(o, 0, 20), 21),
        "constant_warmup_4": rates(lambda o: get_constant_schedule_with_warmup(o, 4), 8),
        "cosine_annealing_20_to_0.1": rates(lambda o: cosine(o, T_max=20, eta_min=0.1), 21),
    }


def flow_match():
    saved = {}
    for n in (8, 10, 40):
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
        scheduler.set_timesteps(n)
        saved |= {f"shift3.sigmas.{n}": scheduler.sigmas, f"shift3.timesteps.{n}": scheduler.timesteps}
    for n, tokens in ((6, 1024), (28, 4096)):  # FLUX: mu from the number of image tokens, own sigmas
        scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0, use_dynamic_shifting=True)
        mu = 0.5 + (tokens - 256) * (1.15 - 0.5) / (4096 - 256)
        scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / n, n, dtype=torch.float64).tolist(), mu=mu)
        saved[f"dynamic{tokens}.sigmas.{n}"] = scheduler.sigmas
    return saved


def main():
    folder = fresh("optim")
    save_tensors(folder / "adamw.safetensors", adamw())
    save_tensors(folder / "clip.safetensors", clipping())
    save_tensors(folder / "flow_match.safetensors", flow_match())
    write_json(folder / "settings.json", {"adamw": RUNS, "schedules": schedules()}, indent=1)
    print("optim:", ", ".join(sorted(p.name for p in folder.iterdir())))
    print(flow_match()["shift3.sigmas.10"], flow_match()["dynamic1024.sigmas.6"])


if __name__ == "__main__":
    main()
