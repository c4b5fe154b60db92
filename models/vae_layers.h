// Blocks of convolutional autoencoders over volumes [B, C, D, H, W], with diffusers' names; an
// image is a volume of depth 1. Sources: diffusers' ResnetBlock2D, Downsample2D, Upsample2D,
// Attention and UNetMidBlock2D, without time embedding.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "models/layers.h"

namespace parlo {

// Weight [out, in, k, k], or [out, in, kd, kh, kw] of volumes.
struct Convolution {
  Var weight, bias;
  Conv3dArgs args;

  Convolution() = default;
  // Of images, zero padding that keeps the size.
  Convolution(const Scope& scope, int64_t in, int64_t out, int64_t kernel);
  // residual is added to the result.
  Var operator()(const Var& x, const Var& residual = {}) const;
};

// Affine group norm, eps 1e-6, with SiLU unless told otherwise.
struct GroupNorm {
  Var weight, bias;
  int64_t groups = 1;

  GroupNorm() = default;
  GroupNorm(const Scope& scope, int64_t channels, int64_t groups);
  Var operator()(const Var& x, Activation activation = Activation::silu) const;
};

// conv2(silu(norm2(conv1(silu(norm1 x))))) + x, x through a 1x1 convolution where channels change.
struct ResnetBlock {
  GroupNorm norm1, norm2;
  Convolution conv1, conv2;
  std::optional<Convolution> conv_shortcut;

  ResnetBlock(const Scope& scope, int64_t in, int64_t out, int64_t groups);
  Var operator()(const Var& x) const;
};

// One head as wide as the channels, over all positions of a frame (D = 1), with a residual.
struct SpatialAttention {
  GroupNorm group_norm;
  Linear to_q, to_k, to_v, to_out;

  SpatialAttention(const Scope& scope, int64_t channels, int64_t groups);
  Var operator()(const Var& x) const;
};

// resnets.0, attentions.0 (unless left out), resnets.1.
struct MidBlock {
  ResnetBlock first, second;
  std::optional<SpatialAttention> attention;

  MidBlock(const Scope& scope, int64_t channels, int64_t groups, bool with_attention);
};

// softmax(q k' / sqrt(C)) v of q, k, v [B, T, C]: attention whose head is wider than the fused
// kernels take. Rows of scores are made for some queries at a time, at most 64 MiB of them.
Var wide_attention(const Var& q, const Var& k, const Var& v);

}  // namespace parlo
