"""SD3Transformer2DModel on small random configurations: sd3_a (dual attention, QK norm), sd3_b (neither)
and sd3_c (patch 4, wider heads).  python tests/golden/make_sd3.py"""
import torch
from diffusers import SD3Transformer2DModel

from common import fresh, randomise, run, save_model, save_tensors, write_case

CASES = {
    "sd3_a": dict(
        seed=11, size=(16, 12), tokens=7, timestep=[1000 * 0.7353, 12.5],
        config=dict(sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=3,
                    attention_head_dim=16, num_attention_heads=4, joint_attention_dim=24,
                    caption_projection_dim=64, pooled_projection_dim=20, pos_embed_max_size=12,
                    qk_norm="rms_norm", dual_attention_layers=(0, 1))),
    "sd3_b": dict(
        seed=12, size=(10, 14), tokens=5, timestep=[1000.0, 401.25, 8.0],
        config=dict(sample_size=12, patch_size=2, in_channels=3, out_channels=3, num_layers=2,
                    attention_head_dim=16, num_attention_heads=3, joint_attention_dim=18,
                    caption_projection_dim=48, pooled_projection_dim=10, pos_embed_max_size=9,
                    qk_norm=None, dual_attention_layers=())),
    "sd3_c": dict(
        seed=13, size=(20, 12), tokens=3, timestep=[71.375],
        config=dict(sample_size=20, patch_size=4, in_channels=3, out_channels=3, num_layers=2,
                    attention_head_dim=32, num_attention_heads=2, joint_attention_dim=15,
                    caption_projection_dim=64, pooled_projection_dim=9, pos_embed_max_size=8,
                    qk_norm="rms_norm", dual_attention_layers=(0,))),
}


def sd3_inputs(config, size, tokens, timestep, seed):
    torch.manual_seed(seed)
    batch = len(timestep)
    return {
        "hidden_states": torch.randn(batch, config["in_channels"], *size),
        "encoder_hidden_states": torch.randn(batch, tokens, config["joint_attention_dim"]),
        "pooled_projections": torch.randn(batch, config["pooled_projection_dim"]),
        "timestep": torch.tensor(timestep),
    }


def sd3_call(model):
    return lambda **inputs: {"sample": model(**inputs).sample}


def main():
    for name, case in CASES.items():
        torch.manual_seed(case["seed"])
        model = SD3Transformer2DModel(**case["config"]).eval()
        randomise(model, case["seed"])
        if name == "sd3_c":  # the table is part of the checkpoint; one not made by the formula shows it
            model.pos_embed.pos_embed.add_(0.3 * torch.randn_like(model.pos_embed.pos_embed))
        inputs = sd3_inputs(case["config"], case["size"], case["tokens"], case["timestep"], case["seed"])
        folder = fresh(name)
        save_model(model, folder)
        parameters = dict(model.named_parameters()) if name == "sd3_b" else {}
        inputs, outputs = run(sd3_call(model), inputs, case["seed"] + 100, "sample", lambda: parameters)
        if parameters:  # every weight's gradient, for training the whole model
            save_tensors(folder / "parameter_grads.safetensors", {k: outputs.pop("grad." + k) for k in parameters})
        write_case(folder, inputs, outputs)


if __name__ == "__main__":
    main()
