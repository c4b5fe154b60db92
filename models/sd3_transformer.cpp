#include "models/sd3_transformer.h"

#include <algorithm>
#include <cmath>

#include "tensor/trace.h"

namespace parlo {
namespace {

// sin-cos table [1, max * max, D] (diffusers' constructor formula): first half of the channels
// encodes the column, second half the row, each as [sin, cos]; coordinate i * base / max.
Tensor position_table(const Sd3Config& c) {
  const int64_t max = c.pos_embed_max_size, width = c.width(), quarter = width / 4;
  const double step = static_cast<double>(c.sample_size / c.patch_size) / static_cast<double>(max);
  Tensor table = Tensor::empty({1, max * max, width});
  float* out = table.data<float>();
  for (int64_t row = 0; row < max; ++row) {
    for (int64_t column = 0; column < max; ++column) {
      for (int half = 0; half < 2; ++half) {
        const double at = static_cast<double>(half ? row : column) * step;
        for (int64_t j = 0; j < quarter; ++j) {
          const double angle =
              at * std::pow(10000.0, -static_cast<double>(j) / static_cast<double>(quarter));
          out[half * 2 * quarter + j] = static_cast<float>(std::sin(angle));
          out[half * 2 * quarter + quarter + j] = static_cast<float>(std::cos(angle));
        }
      }
      out += width;
    }
  }
  return table;
}

}  // namespace

Sd3Block::Sd3Block(const Scope& scope, const Sd3Config& c, int64_t index) : name(scope.prefix()) {
  const int64_t width = c.width();
  const auto& duals = c.dual_attention_layers;
  dual = std::find(duals.begin(), duals.end(), index) != duals.end();
  last = index == c.num_layers - 1;
  norm1 = AdaLayerNorm(scope / "norm1", width, dual ? 9 : 6);
  norm1_context = AdaLayerNorm(scope / "norm1_context", width, last ? 2 : 6);
  const Scope attn = scope / "attn";
  const int64_t heads = c.num_attention_heads, head = c.attention_head_dim;
  image = QkvStream(attn, heads, head, c.qk_norm, kImageQkv);
  text = QkvStream(attn, heads, head, c.qk_norm, kTextQkv);
  to_out = Linear(attn / "to_out.0", width, width);
  if (!last) to_add_out = Linear(attn / "to_add_out", width, width);
  if (dual) {
    second = QkvStream(scope / "attn2", heads, head, c.qk_norm, kImageQkv);
    second_out = Linear(scope / "attn2" / "to_out.0", width, width);
  }
  ff = FeedForward(scope / "ff", width, 4 * width);
  if (!last) ff_context = FeedForward(scope / "ff_context", width, 4 * width);
}

void Sd3Block::operator()(Var& x, Var& c, const Var& silu_temb) const {
  // Image: shift, scale, gate for attention, the same for the MLP, the same for attn2 when dual.
  const std::vector<Var> m = norm1(silu_temb);
  // Text: the same six; the last block has (scale, shift) only.
  const std::vector<Var> n = norm1_context(silu_temb);
  const Var text_in = last ? modulate(c, n[1], n[0]) : modulate(c, n[0], n[1]);

  const QkvStream::Out a = image(modulate(x, m[0], m[1])), b = text(text_in);
  const AttentionArgs args = plain_attention(a.q);
  // The last block discards the text half of the result, so it never computes it.
  const TokenVars o = joint_attention({a.q, last ? Var() : b.q}, {a.k, b.k}, {a.v, b.v}, args);
  const Var block_input = x;
  x = to_out.gated(join_heads(o.first), m[2], x);
  if (dual) {
    const QkvStream::Out s = second(modulate(block_input, m[6], m[7]));
    x = second_out.gated(join_heads(attention(s.q, s.k, s.v, args)), m[8], x);
  }
  x = ff.gated(modulate(x, m[3], m[4]), m[5], x);
  if (last) return;
  c = to_add_out.gated(join_heads(o.second), n[2], c);
  c = ff_context.gated(modulate(c, n[3], n[4]), n[5], c);
}

Sd3Transformer::Sd3Transformer(const Sd3Config& config) : config_(config) {
  const Sd3Config& c = config_;
  const int64_t width = c.width();
  CHECK(c.patch_size > 0 && c.pos_embed_max_size > 0 && c.in_channels > 0 && c.out_channels > 0 &&
            c.joint_attention_dim > 0 && c.pooled_projection_dim > 0 && width > 0 && width % 4 == 0,
        "Sd3Transformer: expected positive sizes and a width that 4 divides, got width ", width);
  check_layers("Sd3Transformer", c.num_layers);
  check_patch("Sd3Transformer", c.patch_size);
  const Scope root(params_);
  patch_embed_ = PatchEmbed(root / "pos_embed" / "proj", c.in_channels, width, c.patch_size, true);
  Init table;
  table.table = [config] { return position_table(config); };
  pos_embed_ =
      (root / "pos_embed")
          .param("pos_embed", {1, c.pos_embed_max_size * c.pos_embed_max_size, width}, table);
  const Scope embed = root / "time_text_embed";
  timestep_embedder_ = EmbeddingMlp(embed / "timestep_embedder", kTimestepChannels, width);
  text_embedder_ = EmbeddingMlp(embed / "text_embedder", c.pooled_projection_dim, width);
  context_embedder_ = Linear(root / "context_embedder", c.joint_attention_dim, width);
  blocks_.reserve(static_cast<size_t>(c.num_layers));
  for (int64_t i = 0; i < c.num_layers; ++i) {
    blocks_.emplace_back(root / "transformer_blocks" / static_cast<int>(i), c, i);
  }
  norm_out_ = AdaLayerNorm(root / "norm_out", width, 2);
  proj_out_ = Linear(root / "proj_out", width, c.patch_size * c.patch_size * c.out_channels);
}

Var Sd3Transformer::positions(int64_t height, int64_t width) const {
  const int64_t max = config_.pos_embed_max_size;
  CHECK(height <= max && width <= max, "Sd3Transformer: ", height, "x", width,
        " patches do not fit the position table of ", max, "x", max);
  const int64_t top = (max - height) / 2, left = (max - width) / 2;
  const Tensor table = pos_embed_.value().view({max, max, config_.width()});
  return Var(table.slice(0, top, top + height)
                 .slice(1, left, left + width)
                 .reshape({1, height * width, config_.width()}));
}

Var Sd3Transformer::forward(const Var& hidden_states, const Var& timestep,
                            const Var& encoder_hidden_states, const Var& pooled_projections) const {
  check_shape("Sd3Transformer", "timestep", timestep.value(), {hidden_states.dim(0)});
  return forward_features(hidden_states, timestep_features(timestep), encoder_hidden_states,
                          pooled_projections);
}

Var Sd3Transformer::forward_features(const Var& hidden_states, const Var& features,
                                     const Var& encoder_hidden_states,
                                     const Var& pooled_projections,
                                     std::span<const int64_t> skipped) const {
  const Sd3Config& c = config_;
  const int64_t p = c.patch_size;
  CHECK(hidden_states.rank() == 4 && hidden_states.dim(1) == c.in_channels &&
            hidden_states.dim(2) % p == 0 && hidden_states.dim(3) % p == 0,
        "Sd3Transformer: hidden_states has shape ", hidden_states.shape(), ", expected [B, ",
        c.in_channels, ", H, W] with H and W multiples of ", p);
  const int64_t batch = hidden_states.dim(0), h = hidden_states.dim(2), w = hidden_states.dim(3);
  check_shape("Sd3Transformer", "timestep features", features.value(), {batch, kTimestepChannels});
  check_shape("Sd3Transformer", "pooled_projections", pooled_projections.value(),
              {batch, c.pooled_projection_dim});
  const int64_t tokens = encoder_hidden_states.rank() == 3 ? encoder_hidden_states.dim(1) : -1;
  check_shape("Sd3Transformer", "encoder_hidden_states", encoder_hidden_states.value(),
              {batch, std::max<int64_t>(tokens, 0), c.joint_attention_dim});

  // f64 inputs, which check gradients, stay what they are.
  const DType given = hidden_states.dtype(), dtype = given == DType::f32 ? compute : given;
  Var x = add(patch_embed_(cast(hidden_states, dtype)), cast(positions(h / p, w / p), dtype));
  Var text = context_embedder_(cast(encoder_hidden_states, dtype));
  const Var temb = add(timestep_embedder_(cast(features, dtype)),
                       text_embedder_(cast(pooled_projections, dtype)));
  const Var silu_temb = silu(temb);
  for (int64_t i = 0; i < c.num_layers; ++i) {
    if (std::find(skipped.begin(), skipped.end(), i) != skipped.end()) continue;
    const Sd3Block& block = blocks_[static_cast<size_t>(i)];
    const TraceRange range(block.name.c_str());
    if (!checkpoint_blocks || block.last) {
      block(x, text, silu_temb);
      continue;
    }
    const std::vector<Var> both = checkpoint(
        [&block](std::span<const Var> in) {
          Var a = in[0], b = in[1];
          block(a, b, in[2]);
          return std::vector{a, b};
        },
        {x, text, silu_temb});
    x = both[0], text = both[1];
  }
  const std::vector<Var> m = norm_out_(silu_temb);  // scale, shift
  const Var out = proj_out_(modulate(x, m[1], m[0]));
  return cast(unpatchify(out, p, true, {batch, c.out_channels, h, w}), given);
}

Linears Sd3Transformer::linears() {
  Linears out{&timestep_embedder_.linear_1, &timestep_embedder_.linear_2, &text_embedder_.linear_1,
              &text_embedder_.linear_2, &context_embedder_};
  for (Sd3Block& b : blocks_) {
    for (Linear* l :
         {&b.norm1.linear, &b.norm1_context.linear, &b.image.q, &b.image.k, &b.image.v, &b.text.q,
          &b.text.k, &b.text.v, &b.to_out, &b.to_add_out, &b.second.q, &b.second.k, &b.second.v,
          &b.second_out, &b.ff.in, &b.ff.out, &b.ff_context.in, &b.ff_context.out}) {
      if (l->weight) out.push_back(l);
    }
  }
  out.push_back(&norm_out_.linear);
  out.push_back(&proj_out_);
  return out;
}

void Sd3Transformer::zero_output_layers() {
  Linears layers{&norm_out_.linear, &proj_out_};
  for (Sd3Block& b : blocks_) {
    layers.push_back(&b.norm1.linear);
    layers.push_back(&b.norm1_context.linear);
  }
  zero(layers);
}

std::unique_ptr<Sd3Transformer> Sd3Transformer::load(const TransformerFile& file,
                                                     const Placement& to) {
  auto model = std::make_unique<Sd3Transformer>(Sd3Config::of(file));
  model->params_.load(file.tensors, file.place.string(), file.stored(model->params_), to);
  return model;
}

std::unique_ptr<Sd3Transformer> Sd3Transformer::load(const std::filesystem::path& place,
                                                     const Placement& to) {
  return load(TransformerFile::open(place), to);
}

void Sd3Transformer::save(const std::filesystem::path& folder) const {
  write(folder, config_.to_json());
}

}  // namespace parlo
