// The FLUX transformer (diffusers' FluxTransformer2DModel).
#include "models/flux_transformer.h"
#include "tools/forward/components.h"

namespace parlo {

ForwardResult forward_flux(const ForwardRequest& request) {
  ForwardResult r;
  const std::shared_ptr<FluxTransformer> model =
      FluxTransformer::load(request.checkpoint, request.placement());
  r.model = model;
  const FluxConfig& c = model->config();
  const auto axes = static_cast<int64_t>(c.axes_dims_rope.size());
  using Kind = InputSpec::Kind;
  std::vector<InputSpec> specs{
      {"hidden_states", Kind::real, {"B", "N", c.in_channels}},
      {"encoder_hidden_states", Kind::real, {"B", "T", c.joint_attention_dim}},
      {"pooled_projections", Kind::real, {"B", c.pooled_projection_dim}},
      {"timestep", Kind::number, {"B"}},
      {"img_ids", Kind::number, {"N", axes}},
      {"txt_ids", Kind::number, {"T", axes}}};
  if (c.guidance_embeds) specs.push_back({"guidance", Kind::number, {"B"}});
  const Inputs in(request.inputs, specs, request.grads);
  prepare_model(request, model->params(), model->linears(), r);
  const auto input = [&](const char* name) { return leaf(request, in, name, r); };
  r.outputs.emplace_back(
      "sample", model->forward({input("hidden_states"), input("encoder_hidden_states"),
                                input("pooled_projections"), input("timestep"), input("img_ids"),
                                input("txt_ids"), c.guidance_embeds ? input("guidance") : Var()}));
  finish(request, in, r);
  return r;
}

}  // namespace parlo
