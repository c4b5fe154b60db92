// T5's encoder (transformers' T5EncoderModel).
#include "models/t5.h"
#include "tools/forward/components.h"

namespace parlo {
namespace {

using Kind = InputSpec::Kind;

std::vector<InputSpec> inputs_of(const T5Config& c) {
  return {{"input_ids", Kind::integer, {"B", "T"}, true, c.vocab_size},
          {"inputs_embeds", Kind::real, {"B", "T", c.d_model}, true},
          {"attention_mask", Kind::integer, {"B", "T"}, true, 2}};
}

// The token embeddings, given or looked up, where the gradient of a text ends.
Var embeds_leaf(const ForwardRequest& request, const Inputs& in, const T5EncoderModel& model,
                ForwardResult& result) {
  const Tensor ids = in.at("input_ids");
  if (ids.defined() == in.at("inputs_embeds").defined()) {
    throw UsageError(request.inputs.string() +
                     ": expected either input_ids or inputs_embeds, got " +
                     (ids.defined() ? "both" : "neither"));
  }
  if (!ids) return leaf(request, in, "inputs_embeds", result);
  const Var embeds(model.embed(ids).value(), request.grads);
  if (request.grads) result.leaves.push_back({"inputs_embeds", embeds});
  return embeds;
}

}  // namespace

ForwardResult forward_t5_encoder(const ForwardRequest& request) {
  ForwardResult r;
  const std::shared_ptr<T5EncoderModel> model =
      T5EncoderModel::load(request.checkpoint, {request.device});
  r.model = model;
  const Inputs in(request.inputs, inputs_of(model->config()), request.grads);
  prepare_model(request, model->params(), model->linears(), r);
  const Var embeds = embeds_leaf(request, in, *model, r);
  const T5Output out = model->forward(embeds, in.at("attention_mask"));
  r.outputs.emplace_back("last_hidden_state", out.last_hidden_state);
  for (size_t i = 0; i < out.hidden_states.size(); ++i) {
    r.outputs.emplace_back("hidden_states." + std::to_string(i), out.hidden_states[i]);
  }
  finish(request, in, r);
  return r;
}

}  // namespace parlo
