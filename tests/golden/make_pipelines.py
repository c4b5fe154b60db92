"""Whole pipelines in the diffusers folder layout, tiny and random: conditioning, 4 Euler steps and the image.

pipe_sd3, pipe_flux                the folders (run make_tokenizer.py and make_t5_tokenizer.py first)
pipe_sd3_cases, pipe_flux_cases    what encode_prompt and the pipelines themselves give

python tests/golden/make_pipelines.py"""
import shutil

import torch
from diffusers.utils import logging
from diffusers import (AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel,
                       SD3Transformer2DModel, StableDiffusion3Pipeline)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from common import ROOT, fresh, load_json, randomise, rounded_exp, save_model, save_tensors, write_json
from make_clip import save_clip
from make_t5 import randomise_t5
from make_vae import COMMON as VAE

PROMPTS = ["a photo of a red circle on a blue table", "", "Two cats' dogs!!! <extra_id_3> café ＡＢＣ ½", "red circle " * 60,
           "a sign that says \"STOP\", close-up"]
T5_LENGTH, SIZE = 24, dict(height=64, width=48)
CLIP = dict(vocab_size=829, intermediate_size=32, num_attention_heads=2, max_position_embeddings=77, bos_token_id=827, eos_token_id=2)
SD3 = dict(sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=3, attention_head_dim=8, num_attention_heads=2,
           joint_attention_dim=36, caption_projection_dim=16, pooled_projection_dim=28, pos_embed_max_size=6, qk_norm="rms_norm",
           dual_attention_layers=(0,))
FLUX = dict(patch_size=1, in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=36, pooled_projection_dim=16, guidance_embeds=True, axes_dims_rope=(2, 2, 4))


def drawn(model, seed, draw=randomise):
    model.eval()
    draw(model, seed)
    return model


def save_clip_text(folder, cls, seed, pad, **config):
    model = drawn(cls(CLIPTextConfig(**CLIP, pad_token_id=pad, **config)), seed)
    save_clip(model, folder, ("text_model.", "text_projection."))


def save_t5(folder):
    config = T5Config(vocab_size=500, d_model=36, d_kv=8, d_ff=48, num_layers=2, num_heads=3, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    save_model(drawn(T5EncoderModel(config), 103, randomise_t5), folder)


def save_vae(folder, scaling_factor, shift_factor):
    vae = AutoencoderKL(**VAE, block_out_channels=(4, 4, 8, 8), layers_per_block=1, sample_size=64, scaling_factor=scaling_factor,
                        shift_factor=shift_factor, down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4)
    save_model(drawn(vae, 104), folder)


def save_clip_tokenizer(folder, pad):
    folder.mkdir()
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(ROOT / "tokenizer" / name, folder / name)
    config = load_json(ROOT / "tokenizer" / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", config | {"pad_token": pad}, indent=2)
    write_json(folder / "special_tokens_map.json", {k: config[k] for k in ("bos_token", "eos_token", "unk_token")} | {"pad_token": pad}, indent=2)


def save_t5_tokenizer(folder, names):
    folder.mkdir()
    for name in (*names, "tokenizer_config.json"):
        shutil.copy(ROOT / "t5_tokenizer" / "small" / name, folder / name)


def save_index(folder, cls, parts):
    index = {name: [library, kind] for name, (library, kind) in sorted(parts.items())}
    write_json(folder / "model_index.json", {"_class_name": cls, "_diffusers_version": "0.30.0"} | index, indent=2)


def make_sd3_folder():
    folder = fresh("pipe_sd3")
    torch.manual_seed(101)
    save_model(drawn(SD3Transformer2DModel(**SD3), 101), folder / "transformer")
    save_clip_text(folder / "text_encoder", CLIPTextModelWithProjection, 102, 828, hidden_size=16, projection_dim=16,
                   num_hidden_layers=2, hidden_act="quick_gelu")
    save_clip_text(folder / "text_encoder_2", CLIPTextModelWithProjection, 105, 0, hidden_size=12, projection_dim=12,
                   num_hidden_layers=3, hidden_act="gelu")
    save_t5(folder / "text_encoder_3")
    save_vae(folder / "vae", 1.5305, 0.0609)
    FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(folder / "scheduler")
    save_clip_tokenizer(folder / "tokenizer", "<|endoftext|>")
    save_clip_tokenizer(folder / "tokenizer_2", "!")
    save_t5_tokenizer(folder / "tokenizer_3", ("spiece.model", "tokenizer.json"))
    save_index(folder, "StableDiffusion3Pipeline", dict(
        transformer=("diffusers", "SD3Transformer2DModel"), vae=("diffusers", "AutoencoderKL"),
        scheduler=("diffusers", "FlowMatchEulerDiscreteScheduler"), text_encoder=("transformers", "CLIPTextModelWithProjection"),
        text_encoder_2=("transformers", "CLIPTextModelWithProjection"), text_encoder_3=("transformers", "T5EncoderModel"),
        tokenizer=("transformers", "CLIPTokenizer"), tokenizer_2=("transformers", "CLIPTokenizer"),
        tokenizer_3=("transformers", "T5TokenizerFast")))
    return folder


def make_flux_folder():
    folder = fresh("pipe_flux")
    torch.manual_seed(111)
    save_model(drawn(FluxTransformer2DModel(**FLUX), 111), folder / "transformer")
    save_clip_text(folder / "text_encoder", CLIPTextModel, 102, 828, hidden_size=16, projection_dim=16, num_hidden_layers=2,
                   hidden_act="quick_gelu")
    save_t5(folder / "text_encoder_2")
    save_vae(folder / "vae", 0.3611, 0.1159)
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, base_image_seq_len=256,
                                    max_image_seq_len=4096).save_pretrained(folder / "scheduler")
    save_clip_tokenizer(folder / "tokenizer", "<|endoftext|>")
    save_t5_tokenizer(folder / "tokenizer_2", ("spiece.model",))
    save_index(folder, "FluxPipeline", dict(
        transformer=("diffusers", "FluxTransformer2DModel"), vae=("diffusers", "AutoencoderKL"),
        scheduler=("diffusers", "FlowMatchEulerDiscreteScheduler"), text_encoder=("transformers", "CLIPTextModel"),
        text_encoder_2=("transformers", "T5EncoderModel"), tokenizer=("transformers", "CLIPTokenizer"),
        tokenizer_2=("transformers", "T5TokenizerFast")))
    return folder


def generate(pipe, folder, name, latents, with_image=False, **options):
    """`latents.{i}` after step i; the image in [0, 1] [B, 3, H, W] and its 8 bits [B, H, W, 3]."""
    steps = {}
    def keep(pipe, step, timestep, values):
        steps[f"latents.{step}"] = values["latents"]
        return {}
    image = pipe(latents=latents, num_inference_steps=4, max_sequence_length=T5_LENGTH, output_type="pt", callback_on_step_end=keep,
                 **SIZE, **options).images
    bytes_ = (image.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    steps |= {"timesteps": pipe.scheduler.timesteps, "sigmas": pipe.scheduler.sigmas}
    images = {"image": image, "image_u8": bytes_} if with_image else {}
    save_tensors(folder / f"{name}.safetensors", steps | images)
    print(f"{folder.name}/{name}: image std {float(image.std()):.3f}")
    return {name: dict(options, num_inference_steps=4, max_sequence_length=T5_LENGTH, **SIZE)}


def sd3_conditioning(pipe, folder):
    """Rows are PROMPTS; each with the empty prompt as its negative one."""
    encode = lambda pipe, prompt, **more: pipe.encode_prompt(prompt, more.pop("prompt_2", None), more.pop("prompt_3", None),
                                                             max_sequence_length=T5_LENGTH, **more)
    embeds, negative, pooled, negative_pooled = encode(pipe, PROMPTS)
    saved = {"prompt_embeds": embeds, "negative_prompt_embeds": negative[:1], "pooled": pooled, "negative_pooled": negative_pooled[:1]}
    three = encode(pipe, PROMPTS[:1], prompt_2=PROMPTS[4:5], prompt_3=PROMPTS[2:3], do_classifier_free_guidance=False)
    skipped = encode(pipe, PROMPTS[:1], clip_skip=1, do_classifier_free_guidance=False)
    t5, pipe.text_encoder_3 = pipe.text_encoder_3, None
    without = encode(pipe, PROMPTS[:1], do_classifier_free_guidance=False)
    pipe.text_encoder_3 = t5
    for prefix, result in (("three", three), ("clip_skip_1", skipped), ("no_t5", without)):
        saved |= {prefix + ".prompt_embeds": result[0], prefix + ".pooled": result[2]}
    for index, tokenizer in enumerate((pipe.tokenizer, pipe.tokenizer_2, pipe.tokenizer_3)):
        length = (77, 77, T5_LENGTH)[index]
        saved[f"input_ids.{index + 1}"] = tokenizer(PROMPTS, padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids
    save_tensors(folder / "conditioning.safetensors", saved)


def make_sd3():
    pipe = StableDiffusion3Pipeline.from_pretrained(make_sd3_folder())
    folder = fresh("pipe_sd3_cases")
    sd3_conditioning(pipe, folder)
    latents = torch.randn(2, 16, 8, 6, generator=torch.Generator().manual_seed(106))
    save_tensors(folder / "inputs.safetensors", {"latents": latents})
    prompts = dict(prompt=[PROMPTS[0], PROMPTS[4]], negative_prompt=["blurry", ""])
    cases = generate(pipe, folder, "cfg", latents, True, guidance_scale=4.5, **prompts)
    cases |= generate(pipe, folder, "skip_layers", latents, guidance_scale=4.5, skip_guidance_layers=[1], skip_layer_guidance_scale=2.8,
                      skip_layer_guidance_start=0.01, skip_layer_guidance_stop=0.6, **prompts)
    cases |= generate(pipe, folder, "no_guidance", latents, guidance_scale=1.0, prompt=prompts["prompt"])
    pipe.text_encoder_3 = pipe.tokenizer_3 = None
    cases |= generate(pipe, folder, "no_t5", latents, guidance_scale=3.0, **prompts)
    write_json(folder / "cases.json", {"prompts": PROMPTS, "t5_length": T5_LENGTH, "cases": cases}, indent=1)


def make_flux():
    pipe = FluxPipeline.from_pretrained(make_flux_folder())
    folder = fresh("pipe_flux_cases")
    embeds, pooled, text_ids = pipe.encode_prompt(PROMPTS, max_sequence_length=T5_LENGTH)
    three = pipe.encode_prompt(PROMPTS[:1], prompt_2=PROMPTS[2:3], max_sequence_length=T5_LENGTH)
    ids = [t(PROMPTS, padding="max_length", max_length=n, truncation=True, return_tensors="pt").input_ids
           for t, n in ((pipe.tokenizer, 77), (pipe.tokenizer_2, T5_LENGTH))]
    save_tensors(folder / "conditioning.safetensors", {
        "prompt_embeds": embeds, "pooled": pooled, "text_ids": text_ids, "three.prompt_embeds": three[0], "three.pooled": three[1],
        "input_ids.1": ids[0], "input_ids.2": ids[1]})
    latents = torch.randn(2, 16, 8, 6, generator=torch.Generator().manual_seed(116))
    packed = pipe._pack_latents(latents, 2, 16, 8, 6)
    image_ids = pipe._prepare_latent_image_ids(2, 4, 3, "cpu", torch.float32)
    save_tensors(folder / "inputs.safetensors", {"latents": latents, "packed": packed, "img_ids": image_ids})
    prompts = dict(prompt=[PROMPTS[0], PROMPTS[4]])
    cases = generate(pipe, folder, "guidance", packed, True, guidance_scale=3.5, **prompts)
    cases |= generate(pipe, folder, "true_cfg", packed, guidance_scale=2.5, true_cfg_scale=3.0, negative_prompt=["blurry", ""], **prompts)
    write_json(folder / "cases.json", {"prompts": PROMPTS, "t5_length": T5_LENGTH, "cases": cases}, indent=1)


def main():
    rounded_exp()
    logging.set_verbosity_error()
    with torch.no_grad():
        make_sd3()
        make_flux()


if __name__ == "__main__":
    main()
