#include "models/sd3_transformer.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tensor/trace.h"

namespace parlo {
namespace {

constexpr int64_t kTimestepChannels = 256;
constexpr double kRmsEps = 1e-6;

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

// exp(-ln(1e4) j / 128). The exponent is rounded to f32 after the product and after the quotient,
// as the reference does: at t near 1000 one ulp of a frequency moves the angle by 6e-5.
float timestep_frequency(int64_t j) {
  const float product = static_cast<float>(-std::log(10000.0)) * static_cast<float>(j);
  const float exponent = product / static_cast<float>(kTimestepChannels / 2);
  return static_cast<float>(std::exp(static_cast<double>(exponent)));
}

}  // namespace

Var timestep_features(const Var& timestep) {
  constexpr int64_t half = kTimestepChannels / 2;
  CHECK(timestep.rank() == 1, "timestep_features: timestep must be [B], got ", timestep.shape());
  // B numbers: computed on the CPU wherever they come from.
  const Device device = timestep.value().device();
  const Tensor t = timestep.value().to(Device{}).contiguous();
  const int64_t batch = t.dim(0);
  Tensor y = Tensor::empty({batch, kTimestepChannels}, t.dtype());
  visit_float(t.dtype(), "timestep_features", [&](auto zero) {
    using T = decltype(zero);
    for (int64_t b = 0; b < batch; ++b) {
      T* row = y.data<T>() + b * kTimestepChannels;
      for (int64_t j = 0; j < half; ++j) {
        const T angle = t.data<T>()[b] * static_cast<T>(timestep_frequency(j));
        row[j] = static_cast<T>(std::cos(static_cast<double>(angle)));
        row[half + j] = static_cast<T>(std::sin(static_cast<double>(angle)));
      }
    }
  });
  return record("timestep_features", y.to(device), {timestep},
                [y, batch, device](const Tensor& dout, const Need&) -> std::vector<Tensor> {
                  const Tensor dy = dout.to(Device{});
                  Tensor dt = Tensor::zeros({batch}, dy.dtype());
                  visit_float(dy.dtype(), "timestep_features", [&](auto zero) {
                    using T = decltype(zero);
                    for (int64_t b = 0; b < batch; ++b) {
                      const T* cos = y.data<T>() + b * kTimestepChannels;
                      const T* g = dy.data<T>() + b * kTimestepChannels;
                      double sum = 0;
                      for (int64_t j = 0; j < half; ++j) {
                        sum += static_cast<double>(timestep_frequency(j)) *
                               (static_cast<double>(g[half + j]) * cos[j] -
                                static_cast<double>(g[j]) * cos[half + j]);
                      }
                      dt.data<T>()[b] = static_cast<T>(sum);
                    }
                  });
                  return {dt.to(device)};
                });
}

Tensor sigma_features(std::span<const double> sigmas, Device device) {
  std::vector<float> times;
  for (double s : sigmas) times.push_back(static_cast<float>(1000.0 * s));
  const Shape shape{static_cast<int64_t>(times.size())};
  return timestep_features(Var(Tensor::from(times, shape))).value().to(device);
}

AdaLayerNorm::AdaLayerNorm(const Scope& scope, int64_t width, int64_t chunks_)
    : linear(scope / "linear", width, chunks_ * width), chunks(chunks_) {}

std::vector<Var> AdaLayerNorm::operator()(const Var& silu_temb) const {
  return chunk(linear(silu_temb), 1, chunks);
}

QkvStream::Out QkvStream::operator()(const Var& x) const {
  Out out{split_heads(q(x), heads), split_heads(k(x), heads), split_heads(v(x), heads)};
  if (!norm_q) return out;
  const HeadVars normed = qk_norm_rope(out.q, out.k, {true, norm_q, norm_k, kRmsEps, {}, {}, {}});
  out.q = normed.q, out.k = normed.k;
  return out;
}

namespace {

QkvStream make_stream(const Scope& scope, const Sd3Config& c, const char* q, const char* k,
                      const char* v, const char* norm_q, const char* norm_k) {
  const int64_t width = c.width(), head = c.attention_head_dim;
  QkvStream s{Linear(scope / q, width, width),
              Linear(scope / k, width, width),
              Linear(scope / v, width, width),
              {},
              {},
              c.num_attention_heads};
  if (c.qk_norm) {
    s.norm_q = (scope / norm_q).param("weight", {head}, Init::ones());
    s.norm_k = (scope / norm_k).param("weight", {head}, Init::ones());
  }
  return s;
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
  image = make_stream(attn, c, "to_q", "to_k", "to_v", "norm_q", "norm_k");
  text = make_stream(attn, c, "add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q",
                     "norm_added_k");
  to_out = Linear(attn / "to_out.0", width, width);
  if (!last) to_add_out = Linear(attn / "to_add_out", width, width);
  if (dual) {
    second = make_stream(scope / "attn2", c, "to_q", "to_k", "to_v", "norm_q", "norm_k");
    second_out = Linear(scope / "attn2" / "to_out.0", width, width);
  }
  ff_in = Linear(scope / "ff" / "net.0.proj", width, 4 * width);
  ff_out = Linear(scope / "ff" / "net.2", 4 * width, width);
  if (!last) {
    ff_context_in = Linear(scope / "ff_context" / "net.0.proj", width, 4 * width);
    ff_context_out = Linear(scope / "ff_context" / "net.2", 4 * width, width);
  }
}

void Sd3Block::operator()(Var& x, Var& c, const Var& silu_temb) const {
  // Image: shift, scale, gate for attention, the same for the MLP, the same for attn2 when dual.
  const std::vector<Var> m = norm1(silu_temb);
  // Text: the same six; the last block has (scale, shift) only.
  const std::vector<Var> n = norm1_context(silu_temb);
  const Var text_in = last ? modulate(c, n[1], n[0]) : modulate(c, n[0], n[1]);

  const QkvStream::Out a = image(modulate(x, m[0], m[1])), b = text(text_in);
  const AttentionArgs args{1.0 / std::sqrt(static_cast<double>(a.q.dim(3))), false, {}, {}};
  // The last block discards the text half of the result, so it never computes it.
  const TokenVars o = joint_attention({a.q, last ? Var() : b.q}, {a.k, b.k}, {a.v, b.v}, args);
  const Var block_input = x;
  x = to_out.gated(join_heads(o.first), m[2], x);
  if (dual) {
    const QkvStream::Out s = second(modulate(block_input, m[6], m[7]));
    x = second_out.gated(join_heads(attention(s.q, s.k, s.v, args)), m[8], x);
  }
  x = ff_out.gated(ff_in(modulate(x, m[3], m[4]), Activation::gelu_tanh), m[5], x);
  if (last) return;
  c = to_add_out.gated(join_heads(o.second), n[2], c);
  c = ff_context_out.gated(ff_context_in(modulate(c, n[3], n[4]), Activation::gelu_tanh), n[5], c);
}

Sd3Transformer::Sd3Transformer(const Sd3Config& config) : config_(config) {
  const Sd3Config& c = config_;
  const int64_t width = c.width();
  CHECK(c.patch_size > 0 && c.num_layers > 0 && width > 0 && width % 4 == 0,
        "Sd3Transformer: expected positive sizes and a width that 4 divides, got width ", width);
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

void Sd3Transformer::narrow() {
  params_.narrow_weights();
  compute = params_.device().is_cpu() ? DType::f32 : DType::bf16;
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
                                     const Var& pooled_projections) const {
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
  for (const Sd3Block& block : blocks_) {
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
          &b.second_out, &b.ff_in, &b.ff_out, &b.ff_context_in, &b.ff_context_out}) {
      if (l->weight) out.push_back(l);
    }
  }
  out.push_back(&norm_out_.linear);
  out.push_back(&proj_out_);
  return out;
}

void Sd3Transformer::zero_output_layers() {
  std::vector<Linear*> layers{&norm_out_.linear, &proj_out_};
  for (Sd3Block& b : blocks_) {
    layers.push_back(&b.norm1.linear);
    layers.push_back(&b.norm1_context.linear);
  }
  for (Linear* l : layers) {
    l->weight.value().fill(0);
    l->bias.value().fill(0);
  }
}

std::unique_ptr<Sd3Transformer> Sd3Transformer::load(const std::filesystem::path& folder,
                                                     bool keep_bf16) {
  auto model = std::make_unique<Sd3Transformer>(Sd3Config::from_json(folder / "config.json"));
  model->params_.load(folder, "diffusion_pytorch_model", {}, keep_bf16);
  return model;
}

void Sd3Transformer::save(const std::filesystem::path& folder) const {
  make_folders(folder);
  save_safetensors(folder / "diffusion_pytorch_model.safetensors", params_.tensors(), {});
  write_file(folder / "config.json", config_.to_json());
}

}  // namespace parlo
