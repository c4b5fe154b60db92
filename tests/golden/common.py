"""Shared by the make_*.py scripts: seeds, random parameters, and the layout of a case folder.

A case folder holds the component as the reference library saves it (config.json + *.safetensors),
inputs.safetensors (the reference's forward arguments and `grad_output`) and outputs.safetensors (the
reference's output fields and `grad.NAME`).
"""
import json
import pathlib
import shutil

import torch
from safetensors.torch import load_file, save_file

ROOT = pathlib.Path(__file__).resolve().parent
torch.set_num_threads(1)  # the summation order, hence the last bits, depends on the thread count


def fresh(name):
    """An empty case folder."""
    folder = ROOT / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def randomise(module, seed):
    """Draws every parameter anew: the libraries' own initialisation leaves many zeros and ones,
    behind which a wrong term would hide."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if p.ndim >= 2:
            value = noise / p[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.1 * noise
        elif p.ndim == 0:
            continue  # logit_scale keeps its meaning
        else:
            value = 0.1 * noise
        p.data.copy_(value)


def save_tensors(path, tensors):
    tensors = {k: v.detach().contiguous().clone() for k, v in tensors.items()}
    save_file(dict(sorted(tensors.items())), path)


def save_model(model, folder):
    """Weights and config as `save_pretrained` writes them, less the versions' own noise."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "generation_config.json").unlink(missing_ok=True)


def rounded_exp():
    """Makes torch.exp round an f64 exp from here on. torch's own f32 exp is one ulp off in 2 or 3 of the 128
    frequencies of the timestep embedding, other ones on other CPUs, and near t = 1000 that alone moves
    gradients by 1e-5."""
    own = torch.exp
    torch.exp = lambda x: own(x.double()).to(x.dtype)


def some_weights(model, matrices):
    """All vectors of the model (a bias's gradient shows the whole path to it) and the named matrices."""
    return {k: p for k, p in model.named_parameters() if p.ndim < 2 or k in matrices}


def run(call, inputs, seed, first, extra=dict, constants=()):
    """Runs `call(**inputs)` -> dict of outputs, then the gradient of sum(outputs[first] * grad_output).

    `extra()`, called after the forward pass, names further tensors whose gradients are wanted; the inputs
    named in `constants` get none. Returns the two dictionaries to save. An input that the output does not
    depend on gets a zero gradient.
    """
    leaves = {k: v.detach().clone().requires_grad_() if v.is_floating_point() and k not in constants else v
              for k, v in inputs.items()}
    outputs = call(**leaves)
    generator = torch.Generator().manual_seed(seed)
    grad_output = torch.randn(outputs[first].shape, generator=generator).to(outputs[first].dtype)
    wanted = {k: v for k, v in leaves.items() if v.requires_grad} | dict(extra())
    grads = torch.autograd.grad((outputs[first] * grad_output).sum(), list(wanted.values()),
                                allow_unused=True)
    saved = dict(outputs)
    for (key, leaf), grad in zip(wanted.items(), grads):
        saved["grad." + key] = torch.zeros_like(leaf) if grad is None else grad
    return dict(inputs, grad_output=grad_output), saved


def write_case(folder, inputs, outputs):
    save_tensors(folder / "inputs.safetensors", inputs)
    save_tensors(folder / "outputs.safetensors", outputs)
    total = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.relative_to(ROOT)}: {total / 1024:.0f} KiB,",
          ", ".join(f"{k}{list(v.shape)}" for k, v in outputs.items() if not k.startswith("grad.base_model")))


def load_json(path):
    return json.loads(pathlib.Path(path).read_text())


def write_json(path, value, **kw):
    pathlib.Path(path).write_text(json.dumps(value, ensure_ascii=False, **kw) + "\n")
