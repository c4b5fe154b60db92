// CLIP's towers alone and both together (transformers' CLIPTextModel, CLIPTextModelWithProjection,
// CLIPVisionModel, CLIPVisionModelWithProjection, CLIPModel).
#include "models/clip.h"
#include "tools/forward/components.h"

namespace parlo {
namespace {

using Kind = InputSpec::Kind;

std::vector<InputSpec> text_inputs(const ClipTowerConfig& c, const char* batch) {
  const Dim tokens("T", 1, c.max_position_embeddings);
  return {{"input_ids", Kind::integer, {batch, tokens}, false, c.vocab_size},
          {"attention_mask", Kind::integer, {batch, tokens}, true, 2}};
}

InputSpec pixel_input(const ClipTowerConfig& c, const char* batch) {
  return {"pixel_values", Kind::real, {batch, c.num_channels, c.image_size, c.image_size}};
}

// The output of the token embedding, where the gradient of a text ends.
Var embeds_leaf(const ForwardRequest& request, const ClipText& tower, const Tensor& ids,
                ForwardResult& result) {
  const Var embeds(tower.embed(ids).value(), request.grads);
  if (request.grads) result.leaves.push_back({"inputs_embeds", embeds});
  return embeds;
}

void add_states(const std::vector<Var>& states, ForwardResult& r) {
  for (size_t i = 0; i < states.size(); ++i) {
    r.outputs.emplace_back("hidden_states." + std::to_string(i), states[i]);
  }
}

ForwardResult run_text(const ForwardRequest& request, bool projected) {
  ForwardResult r;
  const std::shared_ptr<ClipTextModel> model =
      ClipTextModel::load(request.checkpoint, {request.device});
  r.model = model;
  const ClipText& tower = model->tower();
  const Inputs in(request.inputs, text_inputs(tower.config(), "B"), request.grads);
  prepare_model(request, model->params(), model->linears(), r);
  const Tensor ids = in.at("input_ids");
  const Var embeds = embeds_leaf(request, tower, ids, r);
  const ClipTextOutput out = tower.forward(embeds, ids, in.at("attention_mask"));
  if (projected) {
    if (!out.text_embeds) {
      throw UsageError(request.checkpoint.string() +
                       ": has no text_projection.weight; use --component clip_text");
    }
    r.outputs.emplace_back("text_embeds", out.text_embeds);
  }
  r.outputs.emplace_back("last_hidden_state", out.last_hidden_state);
  if (!projected) r.outputs.emplace_back("pooler_output", out.pooler_output);
  add_states(out.hidden_states, r);
  finish(request, in, r);
  return r;
}

}  // namespace

ForwardResult forward_clip_text(const ForwardRequest& request) {
  return run_text(request, false);
}

ForwardResult forward_clip_text_with_projection(const ForwardRequest& request) {
  return run_text(request, true);
}

ForwardResult forward_clip_vision(const ForwardRequest& request) {
  ForwardResult r;
  const std::shared_ptr<ClipVisionModel> model =
      ClipVisionModel::load(request.checkpoint, {request.device});
  r.model = model;
  const Inputs in(request.inputs, {pixel_input(model->tower().config(), "B")}, request.grads);
  prepare_model(request, model->params(), model->linears(), r);
  const ClipVisionOutput out = model->tower().forward(leaf(request, in, "pixel_values", r));
  if (out.image_embeds) r.outputs.emplace_back("image_embeds", out.image_embeds);
  r.outputs.emplace_back("last_hidden_state", out.last_hidden_state);
  if (!out.image_embeds) r.outputs.emplace_back("pooler_output", out.pooler_output);
  add_states(out.hidden_states, r);
  finish(request, in, r);
  return r;
}

ForwardResult forward_clip(const ForwardRequest& request) {
  ForwardResult r;
  const std::shared_ptr<ClipModel> model = ClipModel::load(request.checkpoint, {request.device});
  r.model = model;
  std::vector<InputSpec> specs = text_inputs(model->config().text, "texts");
  specs.push_back(pixel_input(model->config().vision, "images"));
  const Inputs in(request.inputs, specs, request.grads);
  prepare_model(request, model->params(), model->linears(), r);
  const Tensor ids = in.at("input_ids");
  const Var embeds = embeds_leaf(request, model->text(), ids, r);
  const ClipOutput out =
      model->forward(embeds, ids, leaf(request, in, "pixel_values", r), in.at("attention_mask"));
  r.outputs = {{"logits_per_image", out.logits_per_image},
               {"logits_per_text", out.logits_per_text},
               {"text_embeds", out.text_embeds},
               {"image_embeds", out.image_embeds}};
  finish(request, in, r);
  return r;
}

}  // namespace parlo
