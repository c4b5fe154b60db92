// Building blocks with the parameter names of the published checkpoints.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "autograd/ops.h"
#include "models/params.h"

namespace parlo {

// What a configuration file may ask for: the number of layers, and the side of a patch, whose
// square multiplies channels. Errors name `who`.
void check_layers(const char* who, int64_t layers);
void check_patch(const char* who, int64_t patch);

// y = x w' + bias, plus the active low-rank adapter, then activation, gate and residual as
// LinearExtras has them. Adapters are attached and switched by lora/; `adapter` null means the
// frozen base.
struct Linear {
  std::string name;
  Var weight, bias;
  std::shared_ptr<LowRankVar> adapter;

  Linear() = default;
  Linear(const Scope& scope, int64_t in, int64_t out, bool with_bias = true);
  Var operator()(const Var& x, Activation activation = Activation::none, const Var& residual = {},
                 const Var& gate = {}) const;
  // residual + gate * y
  Var gated(const Var& x, const Var& gate, const Var& residual) const {
    return (*this)(x, Activation::none, residual, gate);
  }
};

// Affine layer norm over the last axis.
struct LayerNorm {
  Var weight, bias;
  double eps = 1e-5;

  LayerNorm() = default;
  LayerNorm(const Scope& scope, int64_t channels, double eps);
  Var operator()(const Var& x) const { return layer_norm(x, weight, bias, eps); }
};

// (1 + scale) * LN0(x) + shift, LN0 without affine, eps 1e-6; scale, shift [B, C].
inline Var modulate(const Var& x, const Var& shift, const Var& scale) {
  return layer_norm(x, {}, {}, 1e-6, scale, shift);
}

// A convolution whose stride is its kernel: patches as rows of a linear. Weight [out, in, p, p].
struct PatchEmbed {
  Var weight, bias;
  int64_t patch = 1;

  PatchEmbed() = default;
  PatchEmbed(const Scope& scope, int64_t in, int64_t out, int64_t patch, bool with_bias);
  // [B, in, H, W] -> [B, (H/p)(W/p), out]
  Var operator()(const Var& image) const;
};

// Linear, SiLU, Linear: names linear_1, linear_2.
struct EmbeddingMlp {
  Linear linear_1, linear_2;

  EmbeddingMlp() = default;
  EmbeddingMlp(const Scope& scope, int64_t in, int64_t out);
  Var operator()(const Var& x) const { return linear_2(linear_1(x, Activation::silu)); }
};

// A model's linears by name, for adapters and folding.
using Linears = std::vector<Linear*>;

// [B, T, H*D] <-> [B, T, H, D]
inline Var split_heads(const Var& x, int64_t heads) {
  return reshape(x, {x.dim(0), x.dim(1), heads, x.dim(2) / heads});
}
inline Var join_heads(const Var& x) {
  return reshape(x, {x.dim(0), x.dim(1), x.dim(2) * x.dim(3)});
}

}  // namespace parlo
