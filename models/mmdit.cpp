#include "models/mmdit.h"

#include <cmath>

#include "tensor/file.h"
#include "tensor/safetensors.h"

#include "models/axial_rope.h"

namespace parlo {
namespace {

constexpr double kRmsEps = 1e-6;

// exp(-ln(1e4) j / 128). The exponent is rounded to f32 after the product and after the quotient,
// as the reference does: at t near 1000 one ulp of a frequency moves the angle by 6e-5.
float timestep_frequency(int64_t j) {
  const float product = static_cast<float>(-std::log(10000.0)) * static_cast<float>(j);
  const float exponent = product / static_cast<float>(kTimestepChannels / 2);
  return static_cast<float>(std::exp(static_cast<double>(exponent)));
}

}  // namespace

AdaLayerNorm::AdaLayerNorm(const Scope& scope, int64_t width, int64_t chunks_)
    : linear(scope / "linear", width, chunks_ * width), chunks(chunks_) {}

std::vector<Var> AdaLayerNorm::operator()(const Var& silu_temb) const {
  return chunk(linear(silu_temb), 1, chunks);
}

FeedForward::FeedForward(const Scope& scope, int64_t width, int64_t inner)
    : in(scope / "net.0.proj", width, inner), out(scope / "net.2", inner, width) {}

QkvStream::QkvStream(const Scope& scope, int64_t heads_, int64_t head_dim, bool norm,
                     const QkvNames& names)
    : q(scope / names.q, heads_ * head_dim, heads_ * head_dim),
      k(scope / names.k, heads_ * head_dim, heads_ * head_dim),
      v(scope / names.v, heads_ * head_dim, heads_ * head_dim),
      heads(heads_) {
  if (!norm) return;
  norm_q = (scope / names.norm_q).param("weight", {head_dim}, Init::ones());
  norm_k = (scope / names.norm_k).param("weight", {head_dim}, Init::ones());
}

QkvStream::Out QkvStream::operator()(const Var& x, const Rotation& rotation) const {
  Out out{split_heads(q(x), heads), split_heads(k(x), heads), split_heads(v(x), heads)};
  if (!norm_q && !rotation.cos) return out;
  const HeadVars there = qk_norm_rope(
      out.q, out.k,
      {norm_q.defined(), norm_q, norm_k, kRmsEps, rotation.cos, rotation.sin, RopeStyle::pairs});
  out.q = there.q, out.k = there.k;
  if (rotation.angles) {
    out.q = rotated_by(out.q, rotation.angles), out.k = rotated_by(out.k, rotation.angles);
  }
  return out;
}

AttentionArgs plain_attention(const Var& q) {
  return {1.0 / std::sqrt(static_cast<double>(q.dim(3))), false, {}, {}};
}

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

Tensor time_features(const std::vector<float>& times) {
  return timestep_features(Var(Tensor::from(times, {static_cast<int64_t>(times.size())}))).value();
}

Tensor sigma_features(std::span<const double> sigmas, Device device) {
  std::vector<float> times;
  for (double s : sigmas) times.push_back(static_cast<float>(1000.0 * s));
  return time_features(times).to(device);
}

void MmditBase::narrow() {
  params_.narrow_weights();
  compute = params_.device().is_cpu() ? DType::f32 : DType::bf16;
}

void MmditBase::write(const std::filesystem::path& folder, const std::string& config_json) const {
  make_folders(folder);
  save_safetensors(folder / "diffusion_pytorch_model.safetensors", params_.tensors(), {});
  write_file(folder / "config.json", config_json);
}

void zero(const Linears& linears) {
  for (Linear* l : linears) {
    l->weight.value().fill(0);
    l->bias.value().fill(0);
  }
}

}  // namespace parlo
