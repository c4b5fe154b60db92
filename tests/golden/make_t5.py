"""T5EncoderModel (v1.1: gated GELU) on small random configurations.

t5_a   8 buckets up to 16, heads narrower than the width, padded rows with an attention mask
t5_b   the published 32 buckets up to 128 and 150 tokens, heads wider than the width

python tests/golden/make_t5.py"""
import torch
from transformers import T5Config, T5EncoderModel

from common import fresh, load_file, randomise, run, save_model, save_tensors, some_weights, write_case

MATRICES = ("shared.weight", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
            "encoder.block.1.layer.0.SelfAttention.q.weight", "encoder.block.0.layer.1.DenseReluDense.wi_0.weight",
            "encoder.block.1.layer.1.DenseReluDense.wo.weight")
CASES = {
    "t5_a": dict(
        seed=81, tokens=37, lengths=(37, 20, 1), mask=True,
        config=dict(vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=3, num_heads=3,
                    relative_attention_num_buckets=8, relative_attention_max_distance=16)),
    "t5_b": dict(
        seed=82, tokens=150, lengths=(150,), mask=False,
        config=dict(vocab_size=96, d_model=24, d_kv=16, d_ff=40, num_layers=2, num_heads=2,
                    relative_attention_num_buckets=32, relative_attention_max_distance=128)),
}


def t5_inputs(seed, vocab, tokens, lengths, mask):
    """Random words, eos 1, padding 0."""
    ids = torch.randint(2, vocab, (len(lengths), tokens), generator=torch.Generator().manual_seed(seed))
    for row, length in enumerate(lengths):
        ids[row, length - 1] = 1
        ids[row, length:] = 0
    valid = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids} | ({"attention_mask": valid.long()} if mask else {})


def t5_call(model):
    def call(**inputs):
        output = model(**inputs, output_hidden_states=True)
        states = {f"hidden_states.{i}": h for i, h in enumerate(output.hidden_states)}
        return {"last_hidden_state": output.last_hidden_state} | states
    return call


def embedding_hook(model):
    caught = {}
    model.encoder.embed_tokens.register_forward_hook(lambda *a: caught.update(inputs_embeds=a[-1]))
    return lambda: caught


def randomise_t5(model, seed):
    """T5 does not scale its scores: as in its own initialisation the queries' weights are smaller instead."""
    randomise(model, seed)
    for block in model.encoder.block:
        block.layer[0].SelfAttention.q.weight.data *= model.config.d_kv ** -0.5


def make(name, case):
    torch.manual_seed(case["seed"])
    model = T5EncoderModel(T5Config(**case["config"], feed_forward_proj="gated-gelu", tie_word_embeddings=False)).eval()
    randomise_t5(model, case["seed"])
    folder = fresh(name)
    save_model(model, folder)
    weights = some_weights(model, MATRICES)
    hook = embedding_hook(model)
    inputs = t5_inputs(case["seed"], case["config"]["vocab_size"], case["tokens"], case["lengths"], case["mask"])
    inputs, outputs = run(t5_call(model), inputs, case["seed"] + 100, "last_hidden_state", lambda: weights | hook())
    save_tensors(folder / "parameter_grads.safetensors", {k: outputs.pop("grad." + k) for k in weights})
    stored = load_file(folder / "model.safetensors")
    print(name, "stores the embedding as", [k for k in stored if "embed" in k or "shared" in k])
    if name == "t5_b":  # both copies occur in published files
        save_tensors(folder / "model.safetensors", stored | {"encoder.embed_tokens.weight": stored["shared.weight"]})
    write_case(folder, inputs, outputs)


def main():
    for name, case in CASES.items():
        make(name, case)


if __name__ == "__main__":
    main()
