"""Single-file, sharded and fp16 layouts of components of pipe_sd3 and pipe_flux (run make_pipelines.py first).

sd3.safetensors        original names, model.diffusion_model. + first_stage_model. (LDM names)
flux.safetensors       original names without a prefix
text_encoder_2_*       pipe_sd3/text_encoder_2 in shards, in fp16, in fp16 shards

python tests/golden/make_single_file.py"""
import inspect
import re
import shutil

import torch
from diffusers.loaders import single_file_utils as reference
from transformers import CLIPTextModelWithProjection

from common import ROOT, fresh, load_file, load_json, save_tensors
from original_names import flux_names, sd3_names, to_original

TRANSFORMER, VAE = "diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"


def ldm_key(key, levels):
    """encoder.down_blocks.0.resnets.1.conv_shortcut.weight -> encoder.down.0.block.1.nin_shortcut.weight and so on."""
    key = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", key).replace("down_blocks.", "down.")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    key = key.replace(".resnets.", ".block.").replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    key = key.replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")
    if "attentions" in key:
        key = key.replace("mid_block.attentions.0", "mid.attn_1").replace("group_norm", "norm").replace("to_out.0", "proj_out")
        key = re.sub(r"to_([qkv])\.", r"\1.", key)
    return key


def ldm_vae(state, levels):
    """Attention weights are 1x1 convolutions there."""
    result = {}
    for key, value in state.items():
        square = "attentions" in key and value.ndim == 2
        result[ldm_key(key, levels)] = value[:, :, None, None] if square else value
    return result


def check(converted, state):
    assert converted.keys() == state.keys(), converted.keys() ^ state.keys()
    assert all(torch.equal(converted[k], v) for k, v in state.items())


def make_sd3(folder):
    config, state = load_json(ROOT / "pipe_sd3/transformer/config.json"), load_file(ROOT / "pipe_sd3/transformer" / TRANSFORMER)
    original = to_original(state, sd3_names(config["num_layers"], config["dual_attention_layers"]))
    vae_config, vae = load_json(ROOT / "pipe_sd3/vae/config.json"), load_file(ROOT / "pipe_sd3" / VAE)
    ldm = ldm_vae(vae, len(vae_config["block_out_channels"]))
    single = {"model.diffusion_model." + k: v for k, v in original.items()} | {"first_stage_model." + k: v for k, v in ldm.items()}
    check(reference.convert_sd3_transformer_checkpoint_to_diffusers(dict(original)), state)
    check(reference.convert_ldm_vae_checkpoint(single, vae_config), vae)
    save_tensors(folder / "sd3.safetensors", single)


def make_flux(folder):
    config, state = load_json(ROOT / "pipe_flux/transformer/config.json"), load_file(ROOT / "pipe_flux/transformer" / TRANSFORMER)
    original = to_original(state, flux_names(config["num_layers"], config["num_single_layers"]))
    width = config["attention_head_dim"] * config["num_attention_heads"]
    # the converter knows one width only: its own code with another one
    source = inspect.getsource(reference.convert_flux_transformer_checkpoint_to_diffusers)
    scope = vars(reference).copy()
    exec(source.replace("inner_dim = 3072", f"inner_dim = {width}"), scope)
    check(scope["convert_flux_transformer_checkpoint_to_diffusers"](dict(original)), state)
    save_tensors(folder / "flux.safetensors", original)


def make_variants(folder):
    source = ROOT / "pipe_sd3" / "text_encoder_2"
    model = CLIPTextModelWithProjection.from_pretrained(source)
    state = load_file(source / "model.safetensors")
    for name, dtype, variant, size in (("shards", torch.float32, None, "30KB"), ("fp16", torch.float16, "fp16", "1GB"), ("fp16_shards", torch.float16, "fp16", "15KB")):
        target = folder / f"text_encoder_2_{name}"
        model.to(dtype).save_pretrained(target, variant=variant, max_shard_size=size)
        shutil.copy(source / "config.json", target / "config.json")
        (target / "generation_config.json").unlink(missing_ok=True)
        stored = {k: v for f in target.glob("*.safetensors") for k, v in load_file(f).items()}
        print(target.name, sorted(p.name for p in target.iterdir()), sorted(stored.keys() ^ state.keys())[:4])
        assert all(torch.equal(v, state[k].to(dtype)) for k, v in stored.items())


def main():
    folder = fresh("single_file")
    make_sd3(folder)
    make_flux(folder)
    make_variants(folder)


if __name__ == "__main__":
    main()
