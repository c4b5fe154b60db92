"""PEFT adapters on the sd3_a base (run make_sd3.py first) and exact merges of random adapters.

sd3_a_lora          the eight joint-attention linears by their dotted suffixes, r 4, alpha 8, gaussian A
sd3_a_lora_pattern  bare names (they reach attn2 as well), rank_pattern and alpha_pattern
sd3_a_lora_rslora   regular-expression targets with the feed-forward, use_rslora
lora_merge          three adapters, their exact weighted sum and the mean of their factors

python tests/golden/make_lora.py"""
import torch
from diffusers import SD3Transformer2DModel
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict

from common import ROOT, fresh, load_json, run, save_tensors, write_case, write_json, load_file
from make_sd3 import CASES, sd3_call, sd3_inputs

JOINT = ["to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"]

ADAPTERS = {
    "sd3_a_lora": dict(seed=21, r=4, lora_alpha=8, target_modules=["attn." + n for n in JOINT]),
    "sd3_a_lora_pattern": dict(
        seed=22, r=4, lora_alpha=6, target_modules=JOINT,
        rank_pattern={"attn.to_q": 2, "transformer_blocks.1.attn2.to_v": 3, "to_add_out": 1},
        alpha_pattern={"attn.to_q": 5, "transformer_blocks.0.attn.to_k": 12}),
    "sd3_a_lora_rslora": dict(
        seed=23, r=3, lora_alpha=5, use_rslora=True,
        target_modules=r".*\.([01]\.attn\.to_[qkv]|ff\.net\.0\.proj|ff_context\.net\.2)"),
}
# rank, alpha and weights of the adapters to merge; factor means need equal ranks, the exact sum does not.
MERGE = [dict(seed=31, r=4, alpha=8, weight=0.5), dict(seed=32, r=4, alpha=8, weight=0.3),
         dict(seed=33, r=4, alpha=8, weight=0.2), dict(seed=34, r=2, alpha=6, weight=-0.4)]


def base_model():
    return SD3Transformer2DModel.from_pretrained(ROOT / "sd3_a").eval()


def attach(model, seed, **options):
    """A PEFT model with random B (its own initialisation is zero, so that A would get no gradient)."""
    torch.manual_seed(seed)
    config = LoraConfig(init_lora_weights="gaussian", **options)
    model = get_peft_model(model, config).eval()
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data.normal_(0, 0.15)
    return model


def save_adapter(model, folder, base="sd3_a"):
    model.save_pretrained(folder)
    tidy_adapter(folder, base)


def tidy_adapter(folder, base):
    """Takes out what depends on the machine or the run."""
    (folder / "README.md").unlink(missing_ok=True)
    config = load_json(folder / "adapter_config.json")
    config["base_model_name_or_path"] = base
    if isinstance(config["target_modules"], list):  # PEFT holds a set, whose order varies
        config["target_modules"].sort()
    write_json(folder / "adapter_config.json", config, indent=2, sort_keys=True)


def adapter_leaves(model):
    """(key in adapter_model.safetensors, parameter) pairs."""
    return [(n.replace(".default.", "."), p) for n, p in model.named_parameters() if "lora_" in n]


def merged_weights(model):
    """Full weights of block 0's adapted linears after merge_and_unload, by their base names."""
    names = [n.removeprefix("base_model.model.").replace(".lora_A", "")
             for n, _ in adapter_leaves(model) if "blocks.0." in n and ".lora_A" in n]
    state = model.merge_and_unload().state_dict()
    return {n: state[n] for n in names}


def make_adapter(name, options, base_name, inputs, base=base_model, constants=()):
    model = attach(base(), **options)
    folder = fresh(name)
    save_adapter(model, folder, base_name)
    leaves = adapter_leaves(model)
    assert {k for k, _ in leaves} == set(load_file(folder / "adapter_model.safetensors"))
    result = run(sd3_call(model), inputs, options["seed"] + 100, "sample", lambda: leaves, constants)
    write_case(folder, *result)
    save_tensors(folder / "merged.safetensors", merged_weights(model))
    with torch.no_grad():  # merge_and_unload changed the base in place; the saved folder must give the same
        folded = model.base_model.model(**inputs).sample
        loaded = PeftModel.from_pretrained(base(), folder)(**inputs).sample
        sample = result[1]["sample"].detach()
    assert torch.allclose(loaded, sample, atol=1e-5)
    print("  folded against attached:", float((folded - sample).abs().max()))


def exact_sum(adapters):
    """sum_i w_i (alpha_i / r_i) B_i A_i for every module, in f64."""
    deltas = {}
    for spec, state in adapters:
        for key in (k for k in state if "lora_A" in k):
            module = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            product = state[key.replace("lora_A", "lora_B")] @ state[key]
            deltas[module] = deltas.get(module, 0) + spec["weight"] * spec["alpha"] / spec["r"] * product
    return {f"delta.{m}.f64": d for m, d in deltas.items()}


def make_merge():
    """The exact weighted sum beside the factor means that MapReduce LoRA's code uses."""
    folder = fresh("lora_merge")
    adapters = []
    modules = [f"transformer_blocks.{i}.attn.{n}" for i in (0, 2) for n in ("to_q", "to_out.0", "add_k_proj")]
    for index, spec in enumerate(MERGE):
        model = attach(base_model(), spec["seed"], r=spec["r"], lora_alpha=spec["alpha"], target_modules=modules)
        save_adapter(model, folder / f"adapter_{index}")
        adapters.append((spec, {k: v.double() for k, v in get_peft_model_state_dict(model).items()}))
    three = adapters[:3]
    means = {f"mean.{k}.f64": sum(spec["weight"] * state[k] for spec, state in three) for k in three[0][1]}
    save_tensors(folder / "expected.safetensors", exact_sum(three) | means)
    save_tensors(folder / "expected_mixed.safetensors", exact_sum(adapters))
    write_json(folder / "weights.json", {"expected": [s["weight"] for s in MERGE[:3]],
                                         "expected_mixed": [s["weight"] for s in MERGE]})
    print("lora_merge:", len(means), "factors,", len(modules), "modules")


def main():
    for name, options in ADAPTERS.items():
        inputs = sd3_inputs(CASES["sd3_a"]["config"], (8, 14), 6, [875.5, 250.0], options["seed"])
        make_adapter(name, options, "sd3_a", inputs)
    make_merge()


if __name__ == "__main__":
    main()
