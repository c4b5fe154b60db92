"""PEFT's add_weighted_adapter on adapters of pipe_sd3/transformer (run make_pipelines.py first).

python tests/golden/make_merges.py"""
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, get_peft_model

from common import ROOT, fresh, save_tensors, write_json
from make_lora import tidy_adapter

MODULES = ["transformer_blocks.0.attn.to_q", "context_embedder"]
# adapter_3 has another rank, a rank of its own for one module, and no second module
ADAPTERS = [dict(r=4, lora_alpha=8), dict(r=4, lora_alpha=4), dict(r=4, lora_alpha=6), dict(r=2, lora_alpha=3, rank_pattern={"attn.to_q": 3})]
EQUAL, MIXED, SIGNED = [0, 1, 2], [0, 3, 1], [0.7, 0.5, -0.4]
CASES = {
    "linear": dict(adapters=EQUAL, weights=SIGNED, combination_type="linear"),
    "cat": dict(adapters=EQUAL, weights=SIGNED, combination_type="cat"),
    "cat_mixed": dict(adapters=MIXED, weights=SIGNED, combination_type="cat"),
    "svd": dict(adapters=EQUAL, weights=SIGNED, combination_type="svd"),
    "svd_2": dict(adapters=EQUAL, weights=SIGNED, combination_type="svd", svd_rank=2),
    "svd_mixed_5": dict(adapters=MIXED, weights=[0.7, 0.5, 0.4], combination_type="svd", svd_rank=5),
    "ties": dict(adapters=EQUAL, weights=[1.0, 0.8, 0.6], combination_type="ties", density=0.5),
    "ties_frequency": dict(adapters=EQUAL, weights=[1.0, 0.8, 0.6], combination_type="ties", density=0.3, majority_sign_method="frequency"),
    "ties_svd": dict(adapters=EQUAL, weights=[1.0, 0.8, -0.6], combination_type="ties_svd", density=0.4),
    "ties_svd_mixed": dict(adapters=MIXED, weights=[1.0, 0.8, 0.6], combination_type="ties_svd", density=0.4, svd_rank=16),
    "magnitude_prune": dict(adapters=EQUAL, weights=SIGNED, combination_type="magnitude_prune", density=0.45),
    "magnitude_prune_svd": dict(adapters=EQUAL, weights=SIGNED, combination_type="magnitude_prune_svd", density=0.45),
    "dare_linear": dict(adapters=EQUAL, weights=SIGNED, combination_type="dare_linear", density=0.6),
    "dare_linear_svd": dict(adapters=EQUAL, weights=SIGNED, combination_type="dare_linear_svd", density=0.6, svd_rank=16),
    "dare_ties": dict(adapters=EQUAL, weights=[1.0, 0.8, 0.6], combination_type="dare_ties", density=0.6),
    "dare_ties_svd": dict(adapters=EQUAL, weights=[1.0, 0.8, 0.6], combination_type="dare_ties_svd", density=0.6, svd_rank=16),
}


def adapters(folder):
    """One model with every adapter, each saved as a folder of its own."""
    base = SD3Transformer2DModel.from_pretrained(ROOT / "pipe_sd3" / "transformer").eval()
    model = None
    for index, options in enumerate(ADAPTERS):
        torch.manual_seed(151 + index)
        config = LoraConfig(init_lora_weights="gaussian", target_modules=MODULES[:1] if index == 3 else MODULES, **options)
        if model is None:
            model = get_peft_model(base, config, adapter_name="adapter_0")
        else:
            model.add_adapter(f"adapter_{index}", config)
        for name, p in model.named_parameters():
            if f"lora_B.adapter_{index}" in name:
                p.data.normal_(0, 0.3)
        model.save_pretrained(folder, selected_adapters=[f"adapter_{index}"])
        (folder / "README.md").unlink()
        tidy_adapter(folder / f"adapter_{index}", "pipe_sd3/transformer")
    return model


def record_masks(masks):
    """Keeps every mask that DARE draws, in order."""
    own = torch.bernoulli
    def draw(*args, **kwargs):
        masks.append(own(*args, **kwargs))
        return masks[-1]
    torch.bernoulli = draw
    return lambda: setattr(torch, "bernoulli", own)


def named_masks(masks, layers, count, svd):
    """Per module: the masks of all adapters' A, then of all their B; or of their dense changes."""
    masks = iter(masks)
    return {f"mask.{module}.{part}.{i}": next(masks).to(torch.uint8)
            for module in layers for part in (("delta",) if svd else ("A", "B")) for i in range(count)}


def merge(model, name, case):
    options = dict(case, adapters=[f"adapter_{i}" for i in case["adapters"]])
    masks = []
    restore = record_masks(masks)
    torch.manual_seed(161)
    model.base_model.add_weighted_adapter(adapter_name=name, **options)
    restore()
    layers = {n.removeprefix("base_model.model."): m for n, m in model.named_modules() if name in getattr(m, "lora_A", {})}
    saved = {"delta." + n: m.get_delta_weight(name) for n, m in layers.items()}
    if masks:
        saved |= named_masks(masks, layers, len(case["adapters"]), case["combination_type"].endswith("_svd"))
        assert len(masks) == sum(k.startswith("mask") for k in saved)
    model.delete_adapter(name)
    return saved


def main():
    folder = fresh("merges")
    with torch.no_grad():
        model = adapters(folder)
        for name, case in CASES.items():
            save_tensors(folder / f"{name}.safetensors", merge(model, name, case))
    write_json(folder / "cases.json", CASES, indent=1)
    print("merges:", len(CASES), "cases,", sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) // 1024, "KiB")


if __name__ == "__main__":
    main()
