"""torch's own operators in f64, forward and gradients, on small odd sizes: one file per family in ops/.

Names: CASE.in.NAME, CASE.out, CASE.grad_out, CASE.grad.NAME, each with the suffix .f64 (targets and masks are
i64). cases.json says what each case is.  python tests/golden/make_ops.py"""
import torch
import torch.nn.functional as F

from common import fresh, save_tensors, write_json


class Family:
    """Collects the cases of one file."""

    def __init__(self, name, seed):
        self.name, self.saved, self.notes = name, {}, {}
        self.generator = torch.Generator().manual_seed(seed)

    def randn(self, *shape):
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def add(self, case, call, note, **inputs):
        leaves = {k: v.clone().requires_grad_() if v.is_floating_point() else v for k, v in inputs.items()}
        out = call(**leaves)
        grad_out = self.randn(*out.shape)
        wanted = {k: v for k, v in leaves.items() if v.is_floating_point()}
        grads = torch.autograd.grad((out * grad_out).sum(), list(wanted.values()))
        floats = {"out": out, "grad_out": grad_out} | {"in." + k: v for k, v in wanted.items()}
        floats |= {"grad." + k: g for k, g in zip(wanted, grads)}
        self.saved |= {f"{case}.{k}.f64": v for k, v in floats.items()}
        self.saved |= {f"{case}.in.{k}": v for k, v in inputs.items() if k not in wanted}
        self.notes[case] = note


def attention():
    f = Family("attention", 61)
    qkv = lambda b, h, t, s, d: dict(q=f.randn(b, h, t, d), k=f.randn(b, h, s, d), v=f.randn(b, h, s, d))
    full = lambda q, k, v: F.scaled_dot_product_attention(q, k, v)
    causal = lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)
    padded = lambda q, k, v, key_mask: F.scaled_dot_product_attention(
        q, k, v, attn_mask=key_mask[:, None, None, :].bool())
    both = lambda q, k, v, key_mask: F.scaled_dot_product_attention(
        q, k, v, attn_mask=key_mask[:, None, None, :].bool() & torch.ones(q.shape[2], k.shape[2]).tril().bool())
    f.add("full", full, "q (B,H,T,D), k and v (B,H,S,D), scale 1/sqrt(D)", **qkv(2, 3, 7, 11, 5))
    f.add("one_key", full, "S = 1: the output is v", **qkv(1, 2, 3, 1, 4))
    f.add("tiles", full, "T and S beyond one tile of 64", **qkv(1, 1, 67, 131, 8))
    f.add("causal", causal, "T = S = 9", **qkv(2, 2, 9, 9, 6))
    f.add("causal_tiles", causal, "T = S = 130", **qkv(1, 1, 130, 130, 8))
    mask = torch.tensor([[1, 1, 1, 0, 1, 0, 0], [1] * 7])
    f.add("key_padding", padded, "key_mask (B,S): 0 hides the key", key_mask=mask, **qkv(2, 2, 5, 7, 4))
    f.add("causal_key_padding", both, "both masks (key 0 is visible)", key_mask=mask, **qkv(2, 2, 7, 7, 4))
    large = qkv(1, 1, 5, 6, 4)
    large["q"][..., 0] = large["k"][..., 0] = 60  # shifts every logit by 1800, which leaves the weights alone
    f.add("large_logits", full, "logits near 1800: softmax must subtract the maximum", **large)
    return f


def norms():
    f = Family("norms", 62)
    affine = lambda c: dict(weight=1 + 0.2 * f.randn(c), bias=0.2 * f.randn(c))
    layer = lambda eps: lambda x, weight=None, bias=None: F.layer_norm(x, x.shape[-1:], weight, bias, eps)
    rms = lambda eps: lambda x, weight=None: F.rms_norm(x, x.shape[-1:], weight, eps)
    group = lambda groups, eps: lambda x, weight, bias: F.group_norm(x, groups, weight, bias, eps)
    f.add("layer_norm", layer(1e-5), "eps 1e-5, last axis", x=f.randn(3, 5, 7), **affine(7))
    f.add("layer_norm_plain", layer(1e-6), "eps 1e-6, no weight or bias", x=f.randn(2, 3, 33))
    f.add("layer_norm_offset", layer(1e-6), "mean 100: E[x^2] - E[x]^2 loses digits", x=100 + f.randn(4, 19), **affine(19))
    f.add("rms_norm", rms(1e-6), "eps 1e-6", x=f.randn(4, 3, 16), weight=1 + 0.2 * f.randn(16))
    f.add("rms_norm_small", rms(1e-6), "x about 1e-3, where eps counts", x=1e-3 * f.randn(5, 9), weight=1 + 0.2 * f.randn(9))
    f.add("group_norm", group(3, 1e-5), "3 groups, eps 1e-5, (B,C,H,W)", x=f.randn(2, 6, 5, 3), **affine(6))
    f.add("group_norm_one", group(1, 1e-6), "1 group, eps 1e-6", x=f.randn(2, 4, 3, 3), **affine(4))
    return f


def convolutions():
    f = Family("conv2d", 63)
    conv = lambda **o: lambda x, weight, bias=None: F.conv2d(x, weight, bias, **o)
    f.add("k3_p1", conv(padding=1), "3x3, padding 1", x=f.randn(2, 3, 9, 7), weight=f.randn(5, 3, 3, 3), bias=f.randn(5))
    f.add("k3_s2_p1", conv(stride=2, padding=1), "stride 2", x=f.randn(1, 4, 8, 11), weight=f.randn(3, 4, 3, 3), bias=f.randn(3))
    f.add("k2_s2", conv(stride=2), "patches", x=f.randn(2, 3, 6, 10), weight=f.randn(4, 3, 2, 2), bias=f.randn(4))
    f.add("k1", conv(), "1x1, no bias", x=f.randn(2, 5, 4, 3), weight=f.randn(6, 5, 1, 1))
    f.add("k5x3_s2x1", conv(stride=(2, 1), padding=(2, 0)), "5x3, stride (2,1), padding (2,0)", x=f.randn(1, 2, 9, 6),
          weight=f.randn(3, 2, 5, 3), bias=f.randn(3))
    return f


def losses():
    f = Family("cross_entropy", 64)
    target = torch.tensor([3, 0, 10, 5, 5, 9, 2])
    ignoring = torch.tensor([3, -100, 10, 5, -100, 9, 2])
    mean = lambda logits, target: F.cross_entropy(logits, target)
    each = lambda logits, target: F.cross_entropy(logits, target, reduction="none")
    f.add("mean", mean, "mean over rows", logits=f.randn(7, 11), target=target)
    f.add("none", each, "one loss a row", logits=f.randn(7, 11), target=target)
    f.add("ignore", mean, "mean over the rows whose target is not -100", logits=f.randn(7, 11), target=ignoring)
    f.add("large_logits", mean, "logits of +-1000", logits=400 * f.randn(7, 11), target=target)
    f.add("softmax", lambda x: F.softmax(x, -1), "last axis", x=3 * f.randn(3, 4, 13))
    f.add("log_softmax", lambda x: F.log_softmax(x, -1), "last axis", x=3 * f.randn(5, 17))
    return f


def activations():
    f = Family("activations", 65)
    x = torch.cat([torch.linspace(-12, 12, 97, dtype=torch.float64), f.randn(64),
                   torch.tensor([-200.0, -40.0, -1e-6, -0.0, 1e-6, 40.0, 200.0], dtype=torch.float64)])
    table = {
        "gelu_erf": (F.gelu, "x Phi(x)"),
        "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), "the tanh approximation"),
        "quick_gelu": (lambda x: x * torch.sigmoid(1.702 * x), "x sigmoid(1.702 x)"),
        "silu": (F.silu, "x sigmoid(x)"),
        "sigmoid": (torch.sigmoid, ""), "tanh": (torch.tanh, ""), "softplus": (F.softplus, "linear above 20"),
    }
    for case, (call, note) in table.items():
        f.add(case, lambda x, call=call: call(x), note, x=x)
    return f


def main():
    folder = fresh("ops")
    notes = {}
    for family in (attention(), norms(), convolutions(), losses(), activations()):
        path = folder / f"{family.name}.safetensors"
        save_tensors(path, family.saved)
        notes[family.name] = family.notes
        print(f"ops/{path.name}: {path.stat().st_size / 1024:.0f} KiB, {', '.join(family.notes)}")
    write_json(folder / "cases.json", notes, indent=1)


if __name__ == "__main__":
    main()
