#include "models/vae_layers.h"

#include <algorithm>
#include <cmath>

namespace parlo {
namespace {

constexpr double kEps = 1e-6;
constexpr int64_t kScoreElements = int64_t{1} << 24;

}  // namespace

Convolution::Convolution(const Scope& scope, int64_t in, int64_t out, int64_t kernel)
    : weight(scope.param("weight", {out, in, kernel, kernel},
                         Init::normal(1.0 / std::sqrt(static_cast<double>(in * kernel * kernel))))),
      bias(scope.param("bias", {out}, Init::zeros())),
      args(as_conv3d({1, kernel / 2, 1})) {}

Var Convolution::operator()(const Var& x, const Var& residual) const {
  Var w = weight;
  if (w.rank() == 4) w = reshape(w, {w.dim(0), w.dim(1), 1, w.dim(2), w.dim(3)});
  return conv3d(x, w, bias, args, residual);
}

GroupNorm::GroupNorm(const Scope& scope, int64_t channels, int64_t groups_)
    : weight(scope.param("weight", {channels}, Init::ones())),
      bias(scope.param("bias", {channels}, Init::zeros())),
      groups(groups_) {
  CHECK(groups > 0 && channels > 0 && channels % groups == 0, "GroupNorm: ", scope.prefix(),
        " has ", channels, " channels, expected a multiple of norm_num_groups = ", groups);
}

Var GroupNorm::operator()(const Var& x, Activation activation) const {
  return group_norm(x, groups, weight, bias, kEps, activation, /*channels_last=*/true);
}

ResnetBlock::ResnetBlock(const Scope& scope, int64_t in, int64_t out, int64_t groups)
    : norm1(scope / "norm1", in, groups),
      norm2(scope / "norm2", out, groups),
      conv1(scope / "conv1", in, out, 3),
      conv2(scope / "conv2", out, out, 3) {
  if (in != out) conv_shortcut.emplace(scope / "conv_shortcut", in, out, 1);
}

Var ResnetBlock::operator()(const Var& x) const {
  // Nothing but x and the running value is held, which is what bounds a decoder's memory.
  Var h = conv1(norm1(x));
  h = norm2(h);
  return conv2(h, conv_shortcut ? (*conv_shortcut)(x) : x);
}

SpatialAttention::SpatialAttention(const Scope& scope, int64_t channels, int64_t groups)
    : group_norm(scope / "group_norm", channels, groups),
      to_q(scope / "to_q", channels, channels),
      to_k(scope / "to_k", channels, channels),
      to_v(scope / "to_v", channels, channels),
      to_out(scope / "to_out.0", channels, channels) {}

Var SpatialAttention::operator()(const Var& x) const {
  const int64_t batch = x.dim(0), channels = x.dim(1);
  CHECK(x.dim(2) == 1, "SpatialAttention: expected one frame, got ", x.shape());
  const Var rows = permute(group_norm(x, Activation::none), {0, 2, 3, 4, 1});
  const Var tokens = reshape(rows, {batch, -1, channels});
  const Var y = to_out(wide_attention(to_q(tokens), to_k(tokens), to_v(tokens)));
  return add(x, permute(reshape(y, rows.shape()), {0, 4, 1, 2, 3}));
}

MidBlock::MidBlock(const Scope& scope, int64_t channels, int64_t groups, bool with_attention)
    : first(scope / "resnets" / 0, channels, channels, groups),
      second(scope / "resnets" / 1, channels, channels, groups) {
  if (with_attention) attention.emplace(scope / "attentions" / 0, channels, groups);
}

Var wide_attention(const Var& q, const Var& k, const Var& v) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.dim(2)));
  // Depends on the number of keys alone: a sample has the same bits in any batch.
  const int64_t rows = std::clamp<int64_t>(kScoreElements / k.dim(1), 1, q.dim(1));
  std::vector<Var> samples;
  for (int64_t b = 0; b < q.dim(0); ++b) {
    const auto sample = [b](const Var& x) { return slice(x, 0, b, b + 1); };
    const Var keys = sample(k), values = sample(v);
    std::vector<Var> parts;
    for (int64_t i = 0; i < q.dim(1); i += rows) {
      const Var queries = slice(sample(q), 1, i, std::min(q.dim(1), i + rows));
      const Var scores = matmul(affine(queries, scale), keys, false, true);
      parts.push_back(matmul(softmax(scores), values));
    }
    samples.push_back(parts.size() == 1 ? parts[0] : cat(parts, 1));
  }
  return samples.size() == 1 ? samples[0] : cat(samples, 0);
}

}  // namespace parlo
