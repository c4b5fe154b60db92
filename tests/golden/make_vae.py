"""AutoencoderKL with 16 latent channels and no quant convolutions, whole and in tiles.

vae_a   3 levels of 2 layers, SD3's scale and shift
vae_b   4 levels of 1 layer, unequal widths, FLUX's scale and shift

VAE/{encode,decode,tiled_encode,tiled_decode} are cases of their own on the weights of VAE.

python tests/golden/make_vae.py"""
import torch
from diffusers import AutoencoderKL
from diffusers.image_processor import VaeImageProcessor

from common import fresh, randomise, run, save_model, save_tensors, some_weights, write_case

COMMON = dict(latent_channels=16, use_quant_conv=False, use_post_quant_conv=False, norm_num_groups=4)
# sample_size is the side of a tile; images are larger than it only in the tiled cases
CASES = {
    "vae_a": dict(
        seed=71, image=(2, 12, 16), tiled=(1, 40, 28), levels=3, scaling_factor=1.5305, shift_factor=0.0609,
        config=dict(block_out_channels=(8, 16, 16), layers_per_block=2, sample_size=16),
        weights=("encoder.conv_in.weight", "encoder.mid_block.attentions.0.to_q.weight",
                 "encoder.down_blocks.0.downsamplers.0.conv.weight", "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
                 "decoder.conv_in.weight", "decoder.mid_block.attentions.0.to_out.0.weight",
                 "decoder.up_blocks.0.upsamplers.0.conv.weight", "decoder.up_blocks.2.resnets.0.conv_shortcut.weight")),
    "vae_b": dict(
        seed=72, image=(1, 24, 40), tiled=(1, 48, 40), levels=4, scaling_factor=0.3611, shift_factor=0.1159,
        config=dict(block_out_channels=(4, 8, 12, 16), layers_per_block=1, sample_size=32),
        weights=("encoder.conv_out.weight", "encoder.mid_block.attentions.0.to_v.weight",
                 "decoder.conv_out.weight", "decoder.mid_block.attentions.0.to_k.weight")),
}


def encoded(vae):
    """latents = (mode - shift) * scale, as every pipeline takes an image in."""
    def call(sample):
        posterior = vae.encode(sample).latent_dist
        latents = (posterior.mode() - vae.config.shift_factor) * vae.config.scaling_factor
        return {"latents": latents, "mean": posterior.mean, "logvar": posterior.logvar}
    return call


def decoded(vae):
    """sample = decode(latents / scale + shift) and the 8-bit image [B, H, W, 3] a pipeline gives out."""
    def call(latents):
        sample = vae.decode(latents / vae.config.scaling_factor + vae.config.shift_factor).sample
        image = VaeImageProcessor().postprocess(sample.detach(), output_type="np")
        return {"sample": sample, "image": torch.from_numpy((image * 255).round().astype("uint8"))}
    return call


def write(folder, vae, call, inputs, seed, first, weights):
    folder.mkdir()
    inputs, outputs = run(call, inputs, seed, first, lambda: weights)
    grads = {k: outputs.pop("grad." + k) for k in weights}
    if grads:
        save_tensors(folder / "parameter_grads.safetensors", grads)
    write_case(folder, inputs, outputs)


def make(name, case):
    torch.manual_seed(case["seed"])
    vae = AutoencoderKL(**COMMON, **case["config"], scaling_factor=case["scaling_factor"], shift_factor=case["shift_factor"],
                        down_block_types=("DownEncoderBlock2D",) * case["levels"],
                        up_block_types=("UpDecoderBlock2D",) * case["levels"]).eval()
    randomise(vae, case["seed"])
    folder = fresh(name)
    save_model(vae, folder)
    part = lambda prefix: {k: p for k, p in some_weights(vae, case["weights"]).items() if k.startswith(prefix)}
    for index, (size, prefix) in enumerate(((case["image"], ""), (case["tiled"], "tiled_"))):
        if prefix:
            vae.enable_tiling()
        batch, height, width = size
        scale, seed = 2 ** (case["levels"] - 1), case["seed"] + 100 + 10 * index
        images = torch.rand(batch, 3, height, width) * 2 - 1
        latents = torch.randn(batch, 16, height // scale, width // scale)
        write(folder / (prefix + "encode"), vae, encoded(vae), {"sample": images}, seed, "latents",
              {} if prefix else part("encoder."))
        write(folder / (prefix + "decode"), vae, decoded(vae), {"latents": latents}, seed + 1, "sample",
              {} if prefix else part("decoder."))


def main():
    for name, case in CASES.items():
        make(name, case)


if __name__ == "__main__":
    main()
