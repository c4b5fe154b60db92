// The SD3 transformer (diffusers' SD3Transformer2DModel).
#include "models/sd3_transformer.h"
#include "tools/forward/components.h"

namespace parlo {

ForwardResult forward_sd3(const ForwardRequest& request) {
  ForwardResult r;
  const std::shared_ptr<Sd3Transformer> model =
      Sd3Transformer::load(request.checkpoint, request.placement());
  r.model = model;
  const Sd3Config& c = model->config();
  const int64_t patch = c.patch_size, most = patch * c.pos_embed_max_size;
  using Kind = InputSpec::Kind;
  const Inputs in(request.inputs,
                  {{"hidden_states",
                    Kind::real,
                    {"B", c.in_channels, Dim("H", patch, most), Dim("W", patch, most)}},
                   {"timestep", Kind::number, {"B"}},
                   {"encoder_hidden_states", Kind::real, {"B", "T", c.joint_attention_dim}},
                   {"pooled_projections", Kind::real, {"B", c.pooled_projection_dim}}},
                  request.grads);
  prepare_model(request, model->params(), model->linears(), r);
  const auto input = [&](const char* name) { return leaf(request, in, name, r); };
  const Var hidden = input("hidden_states"), time = input("timestep"),
            text = input("encoder_hidden_states"), pooled = input("pooled_projections");
  r.outputs.emplace_back("sample", model->forward(hidden, time, text, pooled));
  finish(request, in, r);
  return r;
}

}  // namespace parlo
