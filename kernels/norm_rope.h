// RMS norm of each head, then rotary embedding, in one pass: what attention does to its queries
// and keys (FLUX, HunyuanVideo, SD3 without the angles).
//   y = rope(x rstd weight),  rstd = 1 / sqrt(mean(x^2) + eps) over D
// x [B, T, H, D] with any strides but the last (1), so that a slice of a fused projection is read
// in place; D even, at most kMostHeadColumns. weight [D] and the angles cos, sin [T, D/2] are
// optional. f32 and f64; on a GPU f32 and bf16, weight in x's dtype or f32, angles in f32.
#pragma once

#include "kernels/rope.h"

namespace parlo {

constexpr int64_t kMostHeadColumns = 256;

struct NormRope {
  Tensor weight;
  Tensor cos, sin;
  RopeStyle style = RopeStyle::pairs;
  double eps = 1e-6;
};

namespace cpu {

void norm_rope(const Tensor& x, const NormRope& p, const Tensor& y);
// dx from dy; recomputes the norm. A trained weight's gradient is not made here.
void norm_rope_backward(const Tensor& x, const NormRope& p, const Tensor& dy, const Tensor& dx);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::norm_rope) norm_rope;
decltype(cpu::norm_rope_backward) norm_rope_backward;
}  // namespace cuda
}  // namespace parlo
