// CLIP towers against transformers: every output, gradients at the embeddings and pixels, the
// contrastive loss's gradient of every weight.
#include "models/clip.h"

#include <cmath>

#include "tests/models/golden.h"

namespace parlo {
namespace {

using namespace test;

Tensor mask_of(const GoldenCase& c) {
  return c.inputs.contains("attention_mask") ? c.inputs.get("attention_mask") : Tensor();
}

void check_hidden_states(const GoldenCase& c, const std::vector<Var>& states) {
  for (size_t i = 0; i < states.size(); ++i) {
    const std::string name = "hidden_states." + std::to_string(i);
    check_parity(name, states[i].value(), c.outputs.get(name));
  }
  CHECK(!c.outputs.contains("hidden_states." + std::to_string(states.size())));
}

TEST_CASE("text towers give the reference's outputs and gradients") {
  for (const char* name : {"clip_text_a", "clip_text_b", "clip_text_c"}) {
    INFO(name);
    const GoldenCase c(name);
    const auto model = ClipTextModel::load(c.folder);
    const Tensor ids = c.inputs.get("input_ids");
    const Var embeds(model->tower().embed(ids).value(), true);
    const ClipTextOutput out = model->tower().forward(embeds, ids, mask_of(c));
    check_hidden_states(c, out.hidden_states);
    check_parity("last_hidden_state", out.last_hidden_state.value(),
                 c.outputs.get("last_hidden_state"));
    const bool projected = c.outputs.contains("text_embeds");
    CHECK(out.text_embeds.defined() == projected);
    if (projected) {
      check_parity("text_embeds", out.text_embeds.value(), c.outputs.get("text_embeds"));
    } else {
      check_parity("pooler_output", out.pooler_output.value(), c.outputs.get("pooler_output"));
    }
    backward(projected ? out.text_embeds : out.last_hidden_state, c.inputs.get("grad_output"));
    check_parity("inputs_embeds", embeds.grad(), c.outputs.get("grad.inputs_embeds"));
  }
}

TEST_CASE("the image tower gives the reference's outputs and gradients") {
  const GoldenCase c("clip_vision_a");
  const auto model = ClipVisionModel::load(c.folder);
  const Var pixels = c.input("pixel_values");
  const ClipVisionOutput out = model->tower().forward(pixels);
  check_hidden_states(c, out.hidden_states);
  check_parity("last_hidden_state", out.last_hidden_state.value(),
               c.outputs.get("last_hidden_state"));
  check_parity("image_embeds", out.image_embeds.value(), c.outputs.get("image_embeds"));
  backward(out.image_embeds, c.inputs.get("grad_output"));
  check_parity("pixel_values", pixels.grad(), c.outputs.get("grad.pixel_values"));
}

TEST_CASE("CLIPModel gives the reference's logits and gradients") {
  const GoldenCase c("clip_model_a");
  const auto model = ClipModel::load(c.folder);
  const Tensor ids = c.inputs.get("input_ids");
  const Var embeds(model->text().embed(ids).value(), true), pixels = c.input("pixel_values");
  const ClipOutput out = model->forward(embeds, ids, pixels, mask_of(c));
  check_parity("text_embeds", out.text_embeds.value(), c.outputs.get("text_embeds"));
  check_parity("image_embeds", out.image_embeds.value(), c.outputs.get("image_embeds"));
  check_parity("logits_per_image", out.logits_per_image.value(), c.outputs.get("logits_per_image"));
  check_parity("logits_per_text", out.logits_per_text.value(), c.outputs.get("logits_per_text"));
  CHECK(same_bits(model->text_features(ids, mask_of(c)).value(), out.text_embeds.value()));
  CHECK(same_bits(model->image_features(pixels).value(), out.image_embeds.value()));
  backward(out.logits_per_image, c.inputs.get("grad_output"));
  check_parity("inputs_embeds", embeds.grad(), c.outputs.get("grad.inputs_embeds"));
  check_parity("pixel_values", pixels.grad(), c.outputs.get("grad.pixel_values"));
}

TEST_CASE("the contrastive loss and its gradient of every weight") {
  const GoldenCase c("clip_model_a");
  const SafeTensors expected = SafeTensors::open(golden("clip_model_a/contrastive.safetensors"));
  const auto model = ClipModel::load(c.folder);
  model->params().set_requires_grad(true);
  const Tensor ids = c.inputs.get("input_ids");
  const ClipOutput out =
      model->forward(model->text().embed(ids), ids, Var(c.inputs.get("pixel_values")), mask_of(c));
  const Tensor diagonal = Tensor::from<int64_t>({0, 1, 2}, {3});
  const Var loss = affine(add(mean(cross_entropy(out.logits_per_text, diagonal)),
                              mean(cross_entropy(out.logits_per_image, diagonal))),
                          0.5);
  check_parity("loss", loss.value(), expected.get("loss"));
  backward(loss);
  size_t compared = 0;
  for (const NamedVar& p : model->params().vars()) {
    const Tensor e = expected.get("grad." + p.name);
    // k_proj.bias shifts every logit of a row alike: its gradient is zero but for rounding.
    check_parity(p.name, p.var.grad(), e, 1e-2);
    ++compared;
  }
  CHECK(compared + 1 == expected.size());
}

TEST_CASE("a saved CLIPModel is read back to the bit") {
  const GoldenCase c("clip_model_a");
  const TemporaryFolder folder;
  const auto model = ClipModel::load(c.folder);
  model->save(folder.path());
  const auto again = ClipModel::load(folder.path());
  CHECK(again->config().to_json() == model->config().to_json());
  const Var pixels = c.input("pixel_values");
  CHECK(same_bits(again->image_features(pixels).value(), model->image_features(pixels).value()));
}

TEST_CASE("a text has the same bits alone and in a batch") {
  const GoldenCase c("clip_text_a");
  const auto model = ClipTextModel::load(c.folder);
  const NoGrad guard;
  const Tensor ids = c.inputs.get("input_ids");
  const auto run = [&](const Tensor& some) {
    return model->tower().forward(model->tower().embed(some), some).last_hidden_state.value();
  };
  const Tensor together = run(ids);
  for (int64_t b = 0; b < ids.dim(0); ++b)
    CHECK(same_bits(run(ids.slice(0, b, b + 1)), together.slice(0, b, b + 1)));
}

TEST_CASE("inputs that do not fit are named") {
  const GoldenCase c("clip_model_a");
  const auto model = ClipModel::load(c.folder);
  CHECK(contains(message_of([&] { model->text().embed(Tensor::zeros({2, 3})); }), "input_ids"));
  CHECK(contains(message_of([&] {
                   model->text_features(Tensor::full({1, 3}, 1e6, DType::i64));
                 }),
                 "1000000"));
  CHECK(contains(message_of([&] {
                   model->image_features(Var(Tensor::zeros({1, 3, 24, 23})));
                 }),
                 "pixel_values"));
  CHECK(contains(message_of([&] {
                   model->image_features(Var(Tensor::zeros({3, 24, 24})));
                 }),
                 "pixel_values"));
}

}  // namespace
}  // namespace parlo
