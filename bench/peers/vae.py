"""Convolutions of VAEs with bias and residual, group norm with silu and its gradient, nearest
upsampling: cuDNN's channels-last convolutions, eager and compiled. Video: causal, replicated."""
import torch
import torch.nn.functional as F

from common import Results, compiled, normal, shapes, start


def image_conv(x, w, bias, residual):
    return F.conv2d(x, w, bias, padding=1) + residual


def video_conv(x, w, bias, residual):  # width, height, time: front only
    return F.conv3d(F.pad(x, (1, 1, 1, 1, 2, 0), mode="replicate"), w, bias) + residual


def norm_silu(x, weight, bias):
    return F.silu(F.group_norm(x, 32, weight, bias, eps=1e-6))


def upsample(x):
    factors = (1, 2, 2) if x.dim() == 5 else (2, 2)
    return F.interpolate(x, scale_factor=factors, mode="nearest")


def add_conv(results: Results, s: dict, video: bool, x_shape: tuple, y_shape: tuple) -> None:
    function = video_conv if video else image_conv
    last = torch.channels_last_3d if video else torch.channels_last
    kernel = (s["out"], s["in"], 3, 3, 3) if video else (s["out"], s["in"], 3, 3)

    def make(form=last, grad=False):
        tensors = [normal(*shape).to(memory_format=form) for shape in (x_shape, kernel, y_shape)]
        x, w, residual = tensors
        return x.requires_grad_(grad), w, normal(s["out"]), residual

    def backward():
        x, w, bias, residual = make(grad=True)
        y = function(x, w, bias, residual)
        return y, x, torch.randn_like(y)

    plain = torch.contiguous_format
    with torch.no_grad():
        for variant, body in (("eager", function), ("compiled", compiled(function))):
            results.add(f"conv_forward/{s['name']}", variant, lambda: make(plain),
                        lambda o: body(*o))
            results.add(f"conv_forward_channels_last/{s['name']}", variant, make,
                        lambda o: body(*o))
    results.add(f"conv_dx/{s['name']}", "eager", backward,
                lambda o: torch.autograd.grad(o[0], o[1], o[2], retain_graph=True))


def add_norm(results: Results, name: str, shape: tuple) -> None:
    def make(function, grad):
        x = normal(*shape, grad=grad)
        operands = x, normal(shape[1]), normal(shape[1])
        return (function(*operands), x, normal(*shape)) if grad else operands

    for variant, function in (("eager", norm_silu), ("compiled", compiled(norm_silu))):
        with torch.no_grad():
            results.add(f"group_norm_silu/{name}", variant, lambda: make(function, False),
                        lambda o: function(*o))
        results.add(f"group_norm_silu_backward/{name}", variant, lambda: make(function, True),
                    lambda o: torch.autograd.grad(o[0], o[1], o[2], retain_graph=True))


def main() -> None:
    results = start("vae")
    torch.backends.cudnn.benchmark = True
    for s in shapes("vae"):
        video = s["frames"] > 1
        space = ((s["frames"],) if video else ()) + (s["height"], s["width"])
        x_shape, y_shape = (s["batch"], s["in"], *space), (s["batch"], s["out"], *space)
        add_conv(results, s, video, x_shape, y_shape)
        add_norm(results, s["name"], y_shape)
        with torch.no_grad():
            results.add(f"upsample_nearest/{s['name']}", "eager", lambda: (normal(*y_shape),),
                        lambda o: upsample(*o))


if __name__ == "__main__":
    main()
