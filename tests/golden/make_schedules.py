"""FlowMatchEulerDiscreteScheduler: sigmas and timesteps of SD3 (static shift) and FLUX (dynamic shift).

python tests/golden/make_schedules.py"""
import json

import numpy
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from common import fresh

FLUX = dict(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256, max_image_seq_len=4096)


def case(scheduler, steps, **about):
    sigmas, timesteps = (numpy.asarray(v, dtype=numpy.float32) for v in (scheduler.sigmas, scheduler.timesteps))
    assert len(sigmas) == steps + 1
    return dict(about, steps=steps, sigmas=[float(s) for s in sigmas], timesteps=[float(t) for t in timesteps])


def sd3(shift, steps, given):
    """Either `set_timesteps(steps)`, as SD3's pipeline does, or the sigmas linspace(1, 1 / steps) given as FLUX's pipeline gives them."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps) if not given else scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps))
    return case(scheduler, steps, shift=shift, given=given)


def flux(tokens, steps):
    scheduler = FlowMatchEulerDiscreteScheduler(**FLUX)
    mu = calculate_shift(tokens, FLUX["base_image_seq_len"], FLUX["max_image_seq_len"], FLUX["base_shift"], FLUX["max_shift"])
    scheduler.set_timesteps(sigmas=numpy.linspace(1.0, 1 / steps, steps), mu=mu)
    return case(scheduler, steps, tokens=tokens, mu=mu)


def main():
    folder = fresh("schedules")
    static = [sd3(shift, n, given) for shift in (3.0, 1.0, 7.0) for n in (1, 2, 4, 10, 28, 40) for given in (False, True)]
    dynamic = [flux(tokens, n) for tokens in (12, 256, 1024, 1536, 2025, 4096, 6144) for n in (1, 4, 28)]
    lines = lambda cases: ",\n".join(json.dumps(c) for c in cases)
    (folder / "flow_match.json").write_text(f'{{"static":[\n{lines(static)}\n],\n"dynamic":[\n{lines(dynamic)}\n]}}\n')
    print("schedules:", len(static), "static,", len(dynamic), "dynamic")


if __name__ == "__main__":
    main()
