// The two kinds of blocks of FLUX. A double block has weights of its own for image and text, a
// single block runs on both streams joined and computes attention and the MLP side by side.
#pragma once

#include <string>

#include "models/mmdit.h"

namespace parlo {

// Positions of text, image, and of both on one axis, text first.
struct JointRotation {
  Rotation text, image, joint;
};

struct FluxDoubleBlock {
  std::string name;  // in profiles
  AdaLayerNorm norm1, norm1_context;
  QkvStream image, text;
  Linear to_out, to_add_out;
  FeedForward ff, ff_context;

  FluxDoubleBlock(const Scope& scope, int64_t heads, int64_t head_dim);
  // Updates image tokens x [B, N, D] and text tokens c [B, T, D].
  void operator()(Var& x, Var& c, const Var& silu_temb, const JointRotation& at) const;
  Linears linears();
};

struct FluxSingleBlock {
  std::string name;
  AdaLayerNorm norm;
  QkvStream attn;
  Linear proj_mlp, proj_out;

  FluxSingleBlock(const Scope& scope, int64_t heads, int64_t head_dim);
  // x [B, T + N, D] -> the same shape.
  Var operator()(const Var& x, const Var& silu_temb, const Rotation& at) const;
  Linears linears();
};

}  // namespace parlo
