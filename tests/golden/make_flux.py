"""FluxTransformer2DModel on small random configurations and an adapter on one of them.

flux_a       guidance embedding, 2 double + 2 single blocks, 2 heads of 16
flux_b       no guidance, 1 double + 3 single blocks, 3 heads of 8
flux_a_lora  PEFT adapter on the attention of both kinds of block, proj_mlp and every proj_out

python tests/golden/make_flux.py"""
import torch
from diffusers import FluxTransformer2DModel

from common import ROOT, fresh, randomise, rounded_exp, run, save_model, save_tensors, some_weights, write_case
from make_lora import JOINT, make_adapter

CASES = {
    "flux_a": dict(
        seed=61, grid=(3, 5), tokens=7, timestep=[0.7353, 0.0125], guidance=[3.5, 5.0],
        config=dict(patch_size=1, in_channels=16, num_layers=2, num_single_layers=2, attention_head_dim=16,
                    num_attention_heads=2, joint_attention_dim=24, pooled_projection_dim=20,
                    guidance_embeds=True, axes_dims_rope=(4, 6, 6))),
    "flux_b": dict(
        seed=62, grid=(6, 4), tokens=5, timestep=[1.0, 0.40125, 0.008], guidance=None,
        config=dict(patch_size=1, in_channels=12, num_layers=1, num_single_layers=3, attention_head_dim=8,
                    num_attention_heads=3, joint_attention_dim=18, pooled_projection_dim=10,
                    guidance_embeds=False, axes_dims_rope=(2, 2, 4))),
}
IDS = ("img_ids", "txt_ids")
ADAPTER = dict(seed=63, r=4, lora_alpha=6, target_modules=["attn." + n for n in JOINT] + ["proj_mlp", "proj_out"])


def image_ids(rows, columns):
    """(0, row, column) for each packed token, row by row, as the pipeline makes them."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], -1).reshape(-1, 3).float()


def flux_inputs(config, grid, tokens, timestep, guidance, seed):
    torch.manual_seed(seed)
    batch = len(timestep)
    inputs = {
        "hidden_states": torch.randn(batch, grid[0] * grid[1], config["in_channels"]),
        "encoder_hidden_states": torch.randn(batch, tokens, config["joint_attention_dim"]),
        "pooled_projections": torch.randn(batch, config["pooled_projection_dim"]),
        "timestep": torch.tensor(timestep),
        "img_ids": image_ids(*grid),
        "txt_ids": torch.zeros(tokens, 3),
    }
    return inputs | ({} if guidance is None else {"guidance": torch.tensor(guidance)})


def flux_call(model):
    return lambda **inputs: {"sample": model(**inputs).sample}


def make_model(name, case):
    torch.manual_seed(case["seed"])
    model = FluxTransformer2DModel(**case["config"]).eval()
    randomise(model, case["seed"])
    inputs = flux_inputs(case["config"], case["grid"], case["tokens"], case["timestep"], case["guidance"], case["seed"])
    folder = fresh(name)
    save_model(model, folder)
    weights = some_weights(model, ("transformer_blocks.0.attn.to_k.weight", "transformer_blocks.0.norm1_context.linear.weight",
                                   "single_transformer_blocks.1.proj_out.weight"))
    inputs, outputs = run(flux_call(model), inputs, case["seed"] + 100, "sample", lambda: weights, IDS)
    save_tensors(folder / "parameter_grads.safetensors", {k: outputs.pop("grad." + k) for k in weights})
    write_case(folder, inputs, outputs)


def main():
    rounded_exp()
    for name, case in CASES.items():
        make_model(name, case)
    inputs = flux_inputs(CASES["flux_a"]["config"], (4, 2), 6, [0.8755, 0.25], [2.5, 4.0], ADAPTER["seed"])
    make_adapter("flux_a_lora", ADAPTER, "flux_a", inputs, constants=IDS,
                 base=lambda: FluxTransformer2DModel.from_pretrained(ROOT / "flux_a").eval())


if __name__ == "__main__":
    main()
