#include "models/flux_transformer.h"

#include <algorithm>

#include "models/axial_rope.h"
#include "tensor/trace.h"

namespace parlo {
namespace {

constexpr double kTheta = 10000.0;

Var joined(const Var& a, const Var& b, int axis = 1) {
  return cat(std::vector<Var>{a, b}, axis);
}

}  // namespace

FluxTransformer::FluxTransformer(const FluxConfig& config) : config_(config) {
  const FluxConfig& c = config_;
  const int64_t width = c.width(), heads = c.num_attention_heads, head = c.attention_head_dim;
  CHECK(c.in_channels > 0 && c.out_channels > 0 && heads > 0 && head > 0 &&
            c.joint_attention_dim > 0 && c.pooled_projection_dim > 0,
        "FluxTransformer: expected positive sizes");
  // Small test models do without one kind of blocks.
  check_layers("FluxTransformer", c.num_layers + c.num_single_layers);
  const Scope root(params_);
  const Scope embed = root / "time_text_embed";
  timestep_embedder_ = EmbeddingMlp(embed / "timestep_embedder", kTimestepChannels, width);
  if (c.guidance_embeds) {
    guidance_embedder_ = EmbeddingMlp(embed / "guidance_embedder", kTimestepChannels, width);
  }
  text_embedder_ = EmbeddingMlp(embed / "text_embedder", c.pooled_projection_dim, width);
  context_embedder_ = Linear(root / "context_embedder", c.joint_attention_dim, width);
  x_embedder_ = Linear(root / "x_embedder", c.in_channels, width);
  blocks_.reserve(static_cast<size_t>(c.num_layers));
  for (int i = 0; i < c.num_layers; ++i) {
    blocks_.emplace_back(root / "transformer_blocks" / i, heads, head);
  }
  single_blocks_.reserve(static_cast<size_t>(c.num_single_layers));
  for (int i = 0; i < c.num_single_layers; ++i) {
    single_blocks_.emplace_back(root / "single_transformer_blocks" / i, heads, head);
  }
  norm_out_ = AdaLayerNorm(root / "norm_out", width, 2);
  proj_out_ = Linear(root / "proj_out", width, c.out_channels);
}

JointRotation FluxTransformer::rotation(const Var& txt_ids, const Var& img_ids) const {
  const Device device = params_.device();
  const Var text = axial_angles(txt_ids, config_.axes_dims_rope, kTheta),
            image = axial_angles(img_ids, config_.axes_dims_rope, kTheta);
  return {rotation_by(text, device), rotation_by(image, device),
          rotation_by(joined(text, image, 0), device)};
}

Var FluxTransformer::forward(const FluxInputs& in) const {
  const int64_t batch = in.hidden_states.dim(0);
  check_shape("FluxTransformer", "timestep", in.timestep.value(), {batch});
  CHECK(in.guidance.defined() == config_.guidance_embeds, "FluxTransformer: guidance is ",
        in.guidance ? "given, but the model has no guidance_embeds"
                    : "missing; a model with guidance_embeds needs it");
  Var features = timestep_features(affine(in.timestep, 1000.0));
  if (in.guidance) {
    check_shape("FluxTransformer", "guidance", in.guidance.value(), {batch});
    features = joined(features, timestep_features(affine(in.guidance, 1000.0)));
  }
  return forward_features(in.hidden_states, features, in.encoder_hidden_states,
                          in.pooled_projections, rotation(in.txt_ids, in.img_ids));
}

Var FluxTransformer::embedding(const Var& features, const Var& pooled) const {
  if (!config_.guidance_embeds) return add(timestep_embedder_(features), text_embedder_(pooled));
  const std::vector<Var> f = chunk(features, 1, 2);  // time, guidance
  return add(add(timestep_embedder_(f[0]), guidance_embedder_(f[1])), text_embedder_(pooled));
}

void FluxTransformer::run(const FluxDoubleBlock& block, Var& x, Var& text, const Var& silu_temb,
                          const JointRotation& at) const {
  if (!checkpoint_blocks || at.joint.angles) {
    block(x, text, silu_temb, at);
    return;
  }
  const std::vector<Var> both = checkpoint(
      [&block, at](std::span<const Var> in) {
        Var y = in[0], c = in[1];
        block(y, c, in[2], at);
        return std::vector{y, c};
      },
      {x, text, silu_temb});
  x = both[0], text = both[1];
}

Var FluxTransformer::forward_features(const Var& hidden_states, const Var& features,
                                      const Var& encoder_hidden_states,
                                      const Var& pooled_projections,
                                      const JointRotation& at) const {
  const FluxConfig& c = config_;
  const int64_t image = at.image.cos.dim(0), tokens = at.text.cos.dim(0);
  const int64_t batch = hidden_states.dim(0);
  check_shape("FluxTransformer", "hidden_states", hidden_states.value(),
              {batch, image, c.in_channels});
  check_shape("FluxTransformer", "encoder_hidden_states", encoder_hidden_states.value(),
              {batch, tokens, c.joint_attention_dim});
  check_shape("FluxTransformer", "noise features", features.value(), {batch, this->features()});
  check_shape("FluxTransformer", "pooled_projections", pooled_projections.value(),
              {batch, c.pooled_projection_dim});

  Var x = x_embedder_(cast(hidden_states, compute));
  Var text = context_embedder_(cast(encoder_hidden_states, compute));
  const Var silu_temb = silu(embedding(cast(features, compute), cast(pooled_projections, compute)));
  for (const FluxDoubleBlock& block : blocks_) {
    const TraceRange range(block.name.c_str());
    run(block, x, text, silu_temb, at);
  }
  Var both = joined(text, x);
  for (const FluxSingleBlock& block : single_blocks_) {
    const TraceRange range(block.name.c_str());
    if (!checkpoint_blocks || at.joint.angles) {
      both = block(both, silu_temb, at.joint);
      continue;
    }
    const auto again = [&block, joint = at.joint](std::span<const Var> in) {
      return block(in[0], in[1], joint);
    };
    both = checkpoint(again, {both, silu_temb});
  }
  x = slice(both, 1, tokens, both.dim(1));
  const std::vector<Var> m = norm_out_(silu_temb);  // scale, shift
  return cast(proj_out_(modulate(x, m[1], m[0])), hidden_states.dtype());
}

Linears FluxTransformer::linears() {
  Linears out;
  const auto add_all = [&out](const Linears& of) {
    for (Linear* l : of) {
      if (l->weight) out.push_back(l);
    }
  };
  for (EmbeddingMlp* mlp : {&timestep_embedder_, &guidance_embedder_, &text_embedder_}) {
    add_all({&mlp->linear_1, &mlp->linear_2});
  }
  add_all({&context_embedder_, &x_embedder_});
  for (FluxDoubleBlock& b : blocks_) add_all(b.linears());
  for (FluxSingleBlock& b : single_blocks_) add_all(b.linears());
  add_all({&norm_out_.linear, &proj_out_});
  return out;
}

void FluxTransformer::zero_output_layers() {
  Linears layers{&norm_out_.linear, &proj_out_};
  for (FluxDoubleBlock& b : blocks_) {
    for (Linear* l : {&b.norm1.linear, &b.norm1_context.linear}) layers.push_back(l);
  }
  for (FluxSingleBlock& b : single_blocks_) layers.push_back(&b.norm.linear);
  zero(layers);
}

std::unique_ptr<FluxTransformer> FluxTransformer::load(const TransformerFile& file,
                                                       const Placement& to) {
  auto model = std::make_unique<FluxTransformer>(FluxConfig::of(file));
  model->params_.load(file.tensors, file.place.string(), file.stored(model->params_), to);
  return model;
}

std::unique_ptr<FluxTransformer> FluxTransformer::load(const std::filesystem::path& place,
                                                       const Placement& to) {
  return load(TransformerFile::open(place), to);
}

void FluxTransformer::save(const std::filesystem::path& folder) const {
  write(folder, config_.to_json());
}

}  // namespace parlo
