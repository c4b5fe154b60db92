// Operands of the tests of qk_norm_rope.
#pragma once

#include "kernels/qk_norm_rope.h"
#include "tests/kernels/kernel_support.h"

namespace parlo::test {

// Views of a fused projection [B, T, H + 2 Hkv, D].
inline QkvHeads split_heads(const Tensor& joint, int64_t kv) {
  const int64_t all = joint.dim(2);
  return {joint.slice(2, 0, all - 2 * kv), joint.slice(2, all - 2 * kv, all - kv),
          joint.slice(2, all - kv, all)};
}

inline Tensor joined_heads(const QkvHeads& x) {
  Shape shape = x.q.shape();
  shape[2] += 2 * x.k.dim(2);
  const Tensor joint = Tensor::empty(shape, x.q.dtype(), x.q.device());
  const QkvHeads views = split_heads(joint, x.k.dim(2));
  views.q.copy_from(x.q), views.k.copy_from(x.k), views.v.copy_from(x.v);
  return joint;
}

inline QkvHeads like_heads(const QkvHeads& x) {
  return {Tensor::empty_like(x.q), Tensor::empty_like(x.k), Tensor::empty_like(x.v)};
}

enum QkParts { kHalves = 1, kNorm = 2, kRotate = 4, kWeight = 8 };

inline QkNormRope make_params(int64_t positions, int64_t d, int parts, DType dtype) {
  QkNormRope p;
  p.style = parts & kHalves ? RopeStyle::halves : RopeStyle::pairs;
  p.norm = parts & kNorm;
  p.eps = 1e-3;
  if (p.norm && (parts & kWeight)) {
    p.q_weight = random_tensor({d}, 11, dtype), p.k_weight = random_tensor({d}, 12, dtype);
  }
  if (!(parts & kRotate)) return p;
  std::vector<double> cos = random_tensor({positions, d / 2}, 13, DType::f64, 3).to_vector();
  std::vector<double> sin = cos;
  for (double& a : cos) a = std::cos(a);
  for (double& a : sin) a = std::sin(a);
  // The angles' values are those of f32 in any dtype.
  p.cos = Tensor::from(cos, {positions, d / 2}).to(DType::f32).to(dtype);
  p.sin = Tensor::from(sin, {positions, d / 2}).to(DType::f32).to(dtype);
  return p;
}

}  // namespace parlo::test
