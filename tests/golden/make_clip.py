"""CLIP text and image towers and the whole CLIPModel on small random configurations.

clip_text_a   CLIPTextModel, QuickGELU, legacy eos_token_id 2 (pooling at the largest id)
clip_text_b   CLIPTextModelWithProjection, GELU, its own eos_token_id (pooling at the first one), padding mask
clip_text_c   CLIPTextModelWithProjection, QuickGELU, legacy eos_token_id, padded with 0
clip_vision_a CLIPVisionModelWithProjection, GELU
clip_model_a  CLIPModel, a mask with a hole, contrastive loss

python tests/golden/make_clip.py"""
import torch
from transformers import (CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection,
                          CLIPVisionConfig, CLIPVisionModelWithProjection)

from common import fresh, load_file, randomise, run, save_file, save_model, save_tensors, write_case

TEXT = dict(vocab_size=99, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=16, projection_dim=24, bos_token_id=97)
VISION = dict(hidden_size=32, intermediate_size=72, num_hidden_layers=2, num_attention_heads=4, image_size=24,
              patch_size=6, projection_dim=20, hidden_act="gelu")
BOS, EOS, OWN_EOS = 97, 98, 50
TEXT_CASES = {
    "clip_text_a": dict(seed=41, cls=CLIPTextModel, first="last_hidden_state", tokens=13, lengths=(13, 6, 2),
                        eos=EOS, pad=EOS, config=dict(hidden_act="quick_gelu", eos_token_id=2, pad_token_id=EOS)),
    "clip_text_b": dict(seed=42, cls=CLIPTextModelWithProjection, first="text_embeds", tokens=16,
                        lengths=(16, 9, 5), eos=OWN_EOS, pad=OWN_EOS, mask=True,
                        config=dict(hidden_act="gelu", eos_token_id=OWN_EOS, pad_token_id=OWN_EOS)),
    "clip_text_c": dict(seed=43, cls=CLIPTextModelWithProjection, first="text_embeds", tokens=7, lengths=(7, 4),
                        eos=EOS, pad=0, config=dict(hidden_act="quick_gelu", eos_token_id=2, pad_token_id=0)),
}


def text_inputs(seed, tokens, lengths, eos, pad, mask=False):
    """BOS, random words (never eos; ids above an own eos occur), eos, padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 97, (len(lengths), tokens), generator=generator)
    ids[ids == eos] = eos + 1
    ids[:, 0] = BOS
    for row, length in enumerate(lengths):
        ids[row, length - 1] = eos
        ids[row, length:] = pad
    valid = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids} | ({"attention_mask": valid.long()} if mask else {})


def embedding_hook(model):
    """Catches what the token embedding returns, for d/d(inputs_embeds)."""
    caught = {}
    tower = getattr(model, "text_model", model)
    tower.embeddings.token_embedding.register_forward_hook(lambda *a: caught.update(inputs_embeds=a[-1]))
    return lambda: caught


def fields(output, names):
    saved = {n: output[n] for n in names if output.get(n) is not None}
    for i, h in enumerate(output.get("hidden_states") or ()):
        saved[f"hidden_states.{i}"] = h
    return saved


def save_clip(model, folder, prefixes):
    """Published checkpoints carry the tower's prefix on every key; transformers 5 drops it when it saves a
    bare CLIPTextModel (and still reads both), so put it back."""
    save_model(model, folder)
    path = folder / "model.safetensors"
    weights = load_file(path)
    if not any(k.startswith(prefixes) for k in weights):
        weights = {prefixes[0] + k: w for k, w in weights.items()}
        save_file(weights, path, metadata={"format": "pt"})
    assert all(k.startswith(prefixes) for k in weights), sorted(weights)[:3]
    again = type(model).from_pretrained(folder).state_dict()
    assert all(torch.equal(w, again[k]) for k, w in model.state_dict().items())


def make_text(name, case):
    model = case["cls"](CLIPTextConfig(**TEXT, **case["config"])).eval()
    randomise(model, case["seed"])
    folder = fresh(name)
    save_clip(model, folder, ("text_model.", "text_projection."))
    call = lambda **inputs: fields(model(**inputs, output_hidden_states=True),
                                   ("last_hidden_state", "pooler_output", "text_embeds"))
    inputs = text_inputs(case["seed"], case["tokens"], case["lengths"], case["eos"], case["pad"],
                         case.get("mask", False))
    write_case(folder, *run(call, inputs, case["seed"] + 100, case["first"], embedding_hook(model)))


def make_vision():
    model = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION)).eval()
    randomise(model, 44)
    folder = fresh("clip_vision_a")
    save_clip(model, folder, ("vision_model.", "visual_projection."))
    inputs = {"pixel_values": torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(44))}
    call = lambda **inputs: fields(model(**inputs, output_hidden_states=True), ("image_embeds", "last_hidden_state"))
    write_case(folder, *run(call, inputs, 144, "image_embeds"))


def make_model():
    config = CLIPConfig(text_config=TEXT | dict(hidden_act="gelu", eos_token_id=EOS, pad_token_id=EOS),
                        vision_config=VISION | dict(hidden_size=40, hidden_act="quick_gelu", num_attention_heads=5),
                        projection_dim=20, logit_scale_init_value=1.25)
    model = CLIPModel(config).eval()
    randomise(model, 45)
    folder = fresh("clip_model_a")
    save_clip(model, folder, ("text_model.", "vision_model.", "text_projection.", "visual_projection.", "logit_scale"))
    inputs = text_inputs(45, 12, (12, 7, 4), EOS, EOS, mask=True)
    inputs["attention_mask"][0, 2] = 0  # a causal model never sees right padding: only a hole tests the mask
    inputs["pixel_values"] = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(45))
    names = ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds")
    call = lambda **inputs: fields(model(**inputs), names)
    write_case(folder, *run(call, inputs, 145, "logits_per_image", embedding_hook(model)))

    loss = model(**inputs, return_loss=True).loss  # needs as many texts as images
    parameters = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(parameters.values()))
    saved = {"grad." + k: g for k, g in zip(parameters, grads)}
    save_tensors(folder / "contrastive.safetensors", saved | {"loss": loss})


def main():
    for name, case in TEXT_CASES.items():
        make_text(name, case)
    make_vision()
    make_model()


if __name__ == "__main__":
    main()
