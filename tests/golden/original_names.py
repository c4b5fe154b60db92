"""The original repositories' names of SD3 and FLUX modules: {original: (diffusers modules, swap)}.

Several diffusers modules are one original module: their rows follow each other. `swap`: the original has (shift, scale),
diffusers (scale, shift).
"""
import torch


def joined(prefix, names):
    return [prefix + n for n in names]


QKV, ADDED = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")


def sd3_names(layers, dual):
    names = {"x_embedder.proj": (["pos_embed.proj"], False), "context_embedder": (["context_embedder"], False),
             "final_layer.linear": (["proj_out"], False), "final_layer.adaLN_modulation.1": (["norm_out.linear"], True)}
    for part, ours in (("t_embedder", "timestep_embedder"), ("y_embedder", "text_embedder")):
        names |= {f"{part}.mlp.{2 * i}": ([f"time_text_embed.{ours}.linear_{i + 1}"], False) for i in (0, 1)}
    for i in range(layers):
        block, last = f"transformer_blocks.{i}.", i == layers - 1
        x, context = f"joint_blocks.{i}.x_block.", f"joint_blocks.{i}.context_block."
        names |= {x + "adaLN_modulation.1": ([block + "norm1.linear"], False), context + "adaLN_modulation.1": ([block + "norm1_context.linear"], last),
                  context + "attn.qkv": (joined(block + "attn.", ADDED), False)}
        for attention in ("attn", "attn2") if i in dual else ("attn",):
            names |= {x + attention + ".qkv": (joined(f"{block}{attention}.", QKV), False), x + attention + ".proj": ([f"{block}{attention}.to_out.0"], False)}
            names |= {f"{x}{attention}.ln_{n}": ([f"{block}{attention}.norm_{n}"], False) for n in "qk"}
        names |= {f"{context}attn.ln_{n}": ([f"{block}attn.norm_added_{n}"], False) for n in "qk"}
        names |= {x + "mlp.fc1": ([block + "ff.net.0.proj"], False), x + "mlp.fc2": ([block + "ff.net.2"], False)}
        if not last:
            names |= {context + "attn.proj": ([block + "attn.to_add_out"], False), context + "mlp.fc1": ([block + "ff_context.net.0.proj"], False),
                      context + "mlp.fc2": ([block + "ff_context.net.2"], False)}
    return names


def flux_names(double, single):
    names = {"img_in": (["x_embedder"], False), "txt_in": (["context_embedder"], False), "final_layer.linear": (["proj_out"], False),
             "final_layer.adaLN_modulation.1": (["norm_out.linear"], True)}
    for part, ours in (("time_in", "timestep_embedder"), ("guidance_in", "guidance_embedder"), ("vector_in", "text_embedder")):
        names |= {f"{part}.{n}_layer": ([f"time_text_embed.{ours}.linear_{i}"], False) for i, n in ((1, "in"), (2, "out"))}
    for i in range(double):
        block, here = f"transformer_blocks.{i}.", f"double_blocks.{i}."
        for stream, norm, qkv, out, ff, added in (("img", "norm1", QKV, "to_out.0", "ff", ""), ("txt", "norm1_context", ADDED, "to_add_out", "ff_context", "added_")):
            names |= {f"{here}{stream}_mod.lin": ([f"{block}{norm}.linear"], False), f"{here}{stream}_attn.qkv": (joined(block + "attn.", qkv), False),
                      f"{here}{stream}_attn.proj": ([f"{block}attn.{out}"], False), f"{here}{stream}_mlp.0": ([f"{block}{ff}.net.0.proj"], False),
                      f"{here}{stream}_mlp.2": ([f"{block}{ff}.net.2"], False)}
            names |= {f"{here}{stream}_attn.norm.{full}_norm": ([f"{block}attn.norm_{added}{full[0]}"], False) for full in ("query", "key")}
    for i in range(single):
        block, here = f"single_transformer_blocks.{i}.", f"single_blocks.{i}."
        names |= {here + "modulation.lin": ([block + "norm.linear"], False), here + "linear1": (joined(block, ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")), False),
                  here + "linear2": ([block + "proj_out"], False)}
        names |= {f"{here}norm.{full}_norm": ([f"{block}attn.norm_{full[0]}"], False) for full in ("query", "key")}
    return names


def swap_halves(tensor):
    first, second = tensor.chunk(2, dim=0)
    return torch.cat([second, first])


def to_original(state, names):
    """The diffusers tensors under their original names."""
    result = {}
    for original, (modules, swap) in names.items():
        for field in ("weight", "bias"):
            if f"{modules[0]}.{field}" not in state:
                continue
            value = torch.cat([state[f"{m}.{field}"] for m in modules])
            scale = original.endswith(("query_norm", "key_norm"))
            result[f"{original}.{'scale' if scale else field}"] = swap_halves(value) if swap else value
    if "pos_embed.pos_embed" in state:
        result["pos_embed"] = state["pos_embed.pos_embed"]
    return result


def split_delta(delta, modules, swap, rows):
    """The dense change of an original module, as {diffusers module: change}; rows: {module: its output features}."""
    delta = swap_halves(delta) if swap else delta
    return dict(zip(modules, torch.split(delta, [rows[m] for m in modules])))
