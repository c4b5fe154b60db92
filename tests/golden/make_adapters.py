"""The file formats of adapters on pipe_sd3/transformer and pipe_flux/transformer, and the dense change of every module
that they stand for (run make_pipelines.py first).

python tests/golden/make_adapters.py"""
import inspect

import torch
from diffusers import FluxPipeline, FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.utils import logging
from diffusers.loaders import lora_conversion_utils as reference
from peft import LoHaConfig, LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict

from common import ROOT, fresh, load_json, save_file, save_tensors
from make_lora import attach, save_adapter
from original_names import flux_names, sd3_names, split_delta

CLASSES = {"sd3": (SD3Transformer2DModel, StableDiffusion3Pipeline), "flux": (FluxTransformer2DModel, FluxPipeline)}
TARGETS = {
    "sd3": ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_out.0", "transformer_blocks.1.attn.add_k_proj", "attn2.to_v",
            "transformer_blocks.1.ff.net.0.proj", "transformer_blocks.0.ff_context.net.2", "context_embedder"],
    "flux": ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_add_out", "single_transformer_blocks.0.attn.to_k",
             "single_transformer_blocks.1.proj_mlp", "single_transformer_blocks.1.proj_out", "transformer_blocks.0.ff.net.2", "x_embedder"]}
VARIANTS = {  # name: options of LoraConfig
    "plain": dict(r=4, lora_alpha=8),
    "rslora": dict(r=4, lora_alpha=6, use_rslora=True),
    "pattern": dict(r=4, lora_alpha=6, rank_pattern={"attn.to_q": 2, r"transformer_blocks\.\d\.ff.*net\.2": 3},
                    alpha_pattern={"attn.to_q": 5, r"\w*_embedder": 12}),
    "dora": dict(r=3, lora_alpha=6, use_dora=True),
}
# Original modules of the files with original names; the second number is the rank, None: no alpha key.
ORIGINAL = {
    "sd3": [("joint_blocks.0.x_block.attn.qkv", 4, 2.0), ("joint_blocks.0.context_block.attn.qkv", 6, 3.0), ("joint_blocks.0.x_block.attn2.qkv", 2, None),
            ("joint_blocks.1.x_block.attn.proj", 4, 8.0), ("joint_blocks.1.context_block.mlp.fc1", 3, 1.0), ("joint_blocks.0.x_block.adaLN_modulation.1", 2, 4.0),
            ("joint_blocks.2.context_block.adaLN_modulation.1", 2, 4.0), ("final_layer.adaLN_modulation.1", 2, None), ("final_layer.linear", 2, None),
            ("context_embedder", 2, 1.0)],
    "flux": [("double_blocks.0.img_attn.qkv", 4, 2.0), ("double_blocks.0.txt_attn.qkv", 6, 3.0), ("double_blocks.0.img_attn.proj", 4, 8.0),
             ("double_blocks.0.txt_mlp.0", 3, 1.0), ("double_blocks.0.img_mod.lin", 2, 4.0), ("single_blocks.0.linear1", 4, 2.0), ("single_blocks.1.linear1", 8, None),
             ("single_blocks.1.linear2", 2, 4.0), ("single_blocks.0.modulation.lin", 2, 1.0), ("final_layer.adaLN_modulation.1", 2, None),
             ("final_layer.linear", 2, None), ("img_in", 2, 1.0)]}
BLOCK_DIAGONAL = ("joint_blocks.0.context_block.attn.qkv", "double_blocks.0.txt_attn.qkv", "single_blocks.1.linear1")


def base(kind):
    return CLASSES[kind][0].from_pretrained(ROOT / f"pipe_{kind}" / "transformer").eval()


def deltas(transformer):
    """The dense change of every adapted module, as the layers themselves compute it."""
    return {"delta." + name: module.get_delta_weight(next(iter(module.lora_A)))
            for name, module in transformer.named_modules() if getattr(module, "lora_A", None)}


def read_back(kind, path, expected):
    """diffusers' loader on the file gives the same changes."""
    pipe = CLASSES[kind][1].from_pretrained(ROOT / f"pipe_{kind}", **{n: None for n in ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae")},
                                            **({"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {}))
    pipe.load_lora_weights(str(path))
    loaded = deltas(pipe.transformer)
    assert loaded.keys() == expected.keys(), (path, loaded.keys() ^ expected.keys())
    worst = max(float((loaded[k] - v).abs().max()) for k, v in expected.items())
    assert worst < 1e-6, (path, worst)


def peft_case(folder, kind, name, options, seed):
    """A PEFT folder and its changes; for DoRA the whole merged weights, for they are no sum."""
    model = attach(base(kind), seed, target_modules=TARGETS[kind], **options)
    if name == "dora":
        for key, p in model.named_parameters():
            if "magnitude" in key:
                p.data *= 1 + 0.2 * torch.randn(p.shape)
    target = folder / name
    save_adapter(model, target, f"pipe_{kind}/transformer")
    state = get_peft_model_state_dict(model)
    config = model.peft_config["default"]
    if name != "dora":
        expected = deltas(model)
        expected = {k.replace("base_model.model.", ""): v for k, v in expected.items()}
    else:
        modules = [k.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for k in state if "lora_A" in k]
        merged = model.merge_and_unload().state_dict()
        expected = {f"weight.{m}": merged[m + ".weight"] for m in modules}
    save_tensors(target / "expected.safetensors", expected)
    return {k.removeprefix("base_model.model."): v for k, v in state.items()}, config, expected


def settings(config):
    """The configuration for a file's header; PEFT holds the targets in a set, whose order varies."""
    values = {k: v for k, v in config.to_dict().items() if v is not None}
    return values | {"target_modules": sorted(values["target_modules"])}


def diffusers_files(folder, kind, state, config, expected):
    """The same factors as pytorch_lora_weights.safetensors: with metadata, with alpha keys, with neither, with old names."""
    save = CLASSES[kind][1].save_lora_weights
    metadata = settings(config)
    save(folder / "diffusers_metadata", transformer_lora_layers=state, transformer_lora_adapter_metadata=metadata)
    read_back(kind, folder / "diffusers_metadata", expected)
    named = {"transformer." + k: v for k, v in state.items()}
    alphas = {k.replace(".lora_A.weight", ".alpha"): torch.tensor(8.0) for k in named if "lora_A" in k}
    old = {k.replace(".lora_A.", ".lora.down.").replace(".lora_B.", ".lora.up."): v for k, v in named.items()}
    for name, tensors in (("diffusers_alpha", named | alphas), ("diffusers_bare", named), ("diffusers_old", old)):
        (folder / name).mkdir()
        path = folder / name / "pytorch_lora_weights.safetensors"
        save_file({k: v.contiguous().clone() for k, v in sorted(tensors.items())}, path, metadata={"format": "pt"})
        if name == "diffusers_alpha" and kind == "sd3":
            continue  # diffusers refuses alpha keys for SD3: every key must contain "lora"
        read_back(kind, folder / name, expected if "alpha" in name else {k: v / 2 for k, v in expected.items()})


def metadata_file(folder, kind, name, state, config, expected):
    metadata = settings(config)
    CLASSES[kind][1].save_lora_weights(folder / f"diffusers_{name}", transformer_lora_layers=state, transformer_lora_adapter_metadata=metadata)
    read_back(kind, folder / f"diffusers_{name}", expected)


def original_factors(kind, names, rows, columns):
    """{original module: (A, B, alpha or None)}; some B are block diagonal, as merged adapters of split modules are."""
    generator = torch.Generator().manual_seed(131)
    factors = {}
    for module, rank, alpha in ORIGINAL[kind]:
        parts = names[module][0]
        a = torch.randn(rank, columns[parts[0]], generator=generator) / columns[parts[0]] ** 0.5
        b = 0.3 * torch.randn(sum(rows[p] for p in parts), rank, generator=generator)
        if module in BLOCK_DIAGONAL:
            b = b * torch.block_diag(*(torch.ones(rows[p], rank // len(parts)) for p in parts))
        factors[module] = (a, b, alpha)
    return factors


def flux_by_converter(state, width):
    """diffusers' own conversion of kohya and ComfyUI keys (it knows one width only: its code with another one)."""
    source = inspect.getsource(reference._convert_kohya_flux_lora_to_diffusers)
    scope = vars(reference).copy()
    exec(source.replace("[3072, 3072, 3072, 12288]", f"[{width}, {width}, {width}, {4 * width}]"), scope)
    converted = scope["_convert_kohya_flux_lora_to_diffusers"](dict(state))
    modules = {k.removesuffix(".lora_A.weight") for k in converted if "lora_A" in k}
    return {"delta." + m.removeprefix("transformer."): converted[m + ".lora_B.weight"] @ converted[m + ".lora_A.weight"] for m in modules}


def original_files(folder, kind):
    """Original names: kohya's, ComfyUI's with down/up and with A/B. One set of factors, one expected file."""
    config, state = load_json(ROOT / f"pipe_{kind}/transformer/config.json"), base(kind).state_dict()
    names = sd3_names(config["num_layers"], config["dual_attention_layers"]) if kind == "sd3" else flux_names(config["num_layers"], config["num_single_layers"])
    rows = {k.removesuffix(".weight"): v.shape[0] for k, v in state.items() if k.endswith(".weight")}
    columns = {k.removesuffix(".weight"): v.shape[1] for k, v in state.items() if k.endswith(".weight") and v.ndim == 2}
    kohya, down_up, a_b, expected = {}, {}, {}, {}
    for module, (a, b, alpha) in original_factors(kind, names, rows, columns).items():
        flat = "lora_unet_" + module.replace(".", "_")
        plain = "diffusion_model." + module
        kohya |= {flat + ".lora_down.weight": a, flat + ".lora_up.weight": b}
        down_up |= {plain + ".lora_down.weight": a, plain + ".lora_up.weight": b}
        a_b |= {plain + ".lora_A.weight": a, plain + ".lora_B.weight": b}
        if alpha is not None:
            for tensors, key in ((kohya, flat), (down_up, plain), (a_b, plain)):
                tensors[key + ".alpha"] = torch.tensor(alpha)
        scale = 1.0 if alpha is None else alpha / a.shape[0]
        expected |= {"delta." + m: d for m, d in split_delta(scale * b @ a, *names[module], rows).items()}
    if kind == "flux":
        width = config["attention_head_dim"] * config["num_attention_heads"]
        for tensors in (kohya, down_up):
            converted = flux_by_converter(tensors, width)
            assert converted.keys() == expected.keys(), converted.keys() ^ expected.keys()
            assert all(torch.allclose(converted[k], v, atol=1e-6) for k, v in expected.items())
    (folder / "original").mkdir()
    for name, tensors in (("kohya", kohya), ("comfy_down_up", down_up), ("comfy_a_b", a_b), ("expected", expected)):
        save_tensors(folder / "original" / f"{name}.safetensors", tensors)


def dora_file(folder, state):
    """The adapter of `dora` with ComfyUI's dora_scale [out, 1] and alpha keys."""
    tensors = {}
    for key, value in state.items():
        if "magnitude" in key:
            tensors[f"diffusion_model.{key.split('.lora_magnitude')[0]}.dora_scale"] = value.reshape(-1, 1)
        else:
            tensors["diffusion_model." + key] = value
            tensors[f"diffusion_model.{key.split('.lora_')[0]}.alpha"] = torch.tensor(6.0)
    save_tensors(folder / "dora" / "dora_scale.safetensors", tensors)


def refused_files(folder, kind="sd3"):
    """Adapters of other kinds, to be recognised and refused."""
    folder = folder / "refused"
    folder.mkdir()
    original = ORIGINAL[kind][0][0]
    flat = "lora_unet_" + original.replace(".", "_")
    z = torch.zeros
    files = {
        "loha": {f"{flat}.{n}": z(48, 2) if n.endswith("_a") else z(2, 16) for n in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")},
        "lokr": {flat + ".lokr_w1": z(4, 4), flat + ".lokr_w2_a": z(12, 2), flat + ".lokr_w2_b": z(2, 4)},
        "locon_mid": {flat + ".lora_down.weight": z(2, 16, 1, 1), flat + ".lora_up.weight": z(48, 2, 1, 1), flat + ".lora_mid.weight": z(2, 2, 3, 3)},
        "unknown_module": {"lora_unet_joint_blocks_99_x_block_attn_qkv.lora_down.weight": z(2, 16), "lora_unet_joint_blocks_99_x_block_attn_qkv.lora_up.weight": z(48, 2)},
        "no_up": {flat + ".lora_down.weight": z(2, 16)},
        "wrong_shape": {flat + ".lora_down.weight": z(2, 15), flat + ".lora_up.weight": z(48, 2)},
    }
    for name, tensors in files.items():
        tensors |= {flat + ".alpha": torch.tensor(1.0)} if "unknown" not in name else {}
        save_tensors(folder / f"{name}.safetensors", tensors)
    torch.manual_seed(141)
    model = get_peft_model(base(kind), LoHaConfig(r=2, alpha=4, target_modules=TARGETS[kind][:1]))
    save_adapter(model, folder / "loha_peft", f"pipe_{kind}/transformer")


def main():
    logging.set_verbosity_error()
    root = fresh("adapter_formats")
    with torch.no_grad():
        for offset, kind in enumerate(("sd3", "flux")):
            folder = root / kind
            folder.mkdir()
            for index, (name, options) in enumerate(VARIANTS.items()):
                state, config, expected = peft_case(folder, kind, name, options, 121 + 10 * offset + index)
                if name == "plain":
                    diffusers_files(folder, kind, state, config, expected)
                elif name == "dora":
                    dora_file(folder, state)
                else:
                    metadata_file(folder, kind, name, state, config, expected)
            original_files(folder, kind)
        refused_files(root)
    total = sum(f.stat().st_size for f in root.rglob("*") if f.is_file())
    print("adapter_formats:", total // 1024, "KiB")


if __name__ == "__main__":
    main()
