// T5's encoder against transformers: every state, gradients at the embeddings and of weights.
#include "models/t5.h"

#include "tensor/file.h"
#include "tests/models/golden.h"

namespace parlo {
namespace {

using namespace test;

TEST_CASE("distances fall into the reference's buckets") {
  const int64_t tokens = 200;
  const Tensor all = t5_buckets(tokens, 32, 128);
  const auto bucket = [&](int64_t query, int64_t key) {
    return all.data<int64_t>()[query * tokens + key];
  };
  // The first distance of every logarithmic bucket.
  const int64_t edges[] = {8, 12, 16, 23, 32, 46, 64, 91};
  for (int64_t i = 0; i < 8; ++i) {
    const int64_t d = edges[i];
    CAPTURE(d);
    CHECK(bucket(d, 0) == 8 + i);
    CHECK(bucket(d - 1, 0) == 7 + i);
    CHECK(bucket(0, d) == 16 + 8 + i);
  }
  CHECK(bucket(0, 0) == 0);
  CHECK(bucket(0, 1) == 17);
  CHECK(bucket(1, 0) == 1);
  CHECK(bucket(199, 0) == 15);
  CHECK(bucket(0, 199) == 31);
}

TEST_CASE("the encoder gives the reference's states and gradients") {
  for (const char* name : {"t5_a", "t5_b"}) {
    INFO(name);
    const GoldenCase c(name);
    const SafeTensors weights =
        SafeTensors::open(golden(concat(name, "/parameter_grads.safetensors")));
    const auto model = T5EncoderModel::load(c.folder);
    model->params().set_requires_grad(true);
    const Tensor ids = c.inputs.get("input_ids");
    const Tensor mask =
        c.inputs.contains("attention_mask") ? c.inputs.get("attention_mask") : Tensor();
    const Var looked_up = model->embed(ids);
    const T5Output out = model->forward(looked_up, mask);
    for (size_t i = 0; i < out.hidden_states.size(); ++i) {
      const std::string state = concat("hidden_states.", i);
      check_parity(state, out.hidden_states[i].value(), c.outputs.get(state));
    }
    check_parity("last_hidden_state", out.last_hidden_state.value(),
                 c.outputs.get("last_hidden_state"));
    backward(out.last_hidden_state, c.inputs.get("grad_output"));
    for (const std::string& w : weights.names()) {
      check_parity(w, model->params().at(w).grad(), weights.get(w));
    }
    const Var embeds(looked_up.value(), true);
    backward(model->forward(embeds, mask).last_hidden_state, c.inputs.get("grad_output"));
    check_parity("inputs_embeds", embeds.grad(), c.outputs.get("grad.inputs_embeds"));
  }
}

TEST_CASE("weights are bf16 on demand, under f32 states") {
  const GoldenCase c("t5_a");
  const TemporaryFolder folder;
  auto model = T5EncoderModel::load(c.folder);
  model->save(folder.path());
  const NoGrad guard;
  const Tensor ids = c.inputs.get("input_ids"), mask = c.inputs.get("attention_mask");
  model = T5EncoderModel::load(folder.path(), {{}, DType::bf16});
  CHECK(model->params().at("shared.weight").dtype() == DType::bf16);
  const Var x = model->embed(ids);
  CHECK(x.dtype() == DType::f32);
  const Tensor states = model->forward(x, mask).last_hidden_state.value();
  CHECK(states.dtype() == DType::f32);
  // Weights and the inputs of linears are rounded.
  check_parity("states", states, c.outputs.get("last_hidden_state"), 0, 1.5 * kBf16Parity);
}

TEST_CASE("the table of embeddings under its other name") {
  const GoldenCase c("t5_b");
  const TemporaryFolder folder;
  const SafeTensors stored = SafeTensors::open(c.folder + "/model.safetensors");
  NamedTensors renamed;
  for (const std::string& name : stored.names()) {
    if (name == "encoder.embed_tokens.weight") continue;
    renamed.emplace_back(name == "shared.weight" ? "encoder.embed_tokens.weight" : name,
                         stored.get(name));
  }
  save_safetensors(folder / "model.safetensors", renamed);
  std::filesystem::copy(c.folder + "/config.json", folder / "config.json");
  const auto model = T5EncoderModel::load(folder.path());
  CHECK(same_bits(model->params().at("encoder.embed_tokens.weight").value(),
                  stored.get("shared.weight")));
}

TEST_CASE("a text has the same bits alone and in a batch") {
  const GoldenCase c("t5_a");
  const auto model = T5EncoderModel::load(c.folder);
  const NoGrad guard;
  const Tensor ids = c.inputs.get("input_ids");
  const auto run = [&](const Tensor& some) {
    return model->forward(model->embed(some)).last_hidden_state.value();
  };
  const Tensor together = run(ids);
  for (int64_t b = 0; b < ids.dim(0); ++b)
    CHECK(same_bits(run(ids.slice(0, b, b + 1)), together.slice(0, b, b + 1)));
}

TEST_CASE("what does not fit is named") {
  const GoldenCase c("t5_a");
  const auto model = T5EncoderModel::load(c.folder);
  CHECK(contains(message_of([&] { model->embed(Tensor::zeros({2, 3})); }), "input_ids"));
  CHECK(contains(message_of([&] {
                   model->forward(Var(Tensor::zeros({1, 3, 31})));
                 }),
                 "expected [B, T, 32]"));
  const TemporaryFolder folder;
  write_file(folder / "config.json", "{\"feed_forward_proj\": \"relu\"}");
  CHECK(contains(message_of([&] { T5EncoderModel::load(folder.path()); }), "gated-gelu"));
}

}  // namespace
}  // namespace parlo
