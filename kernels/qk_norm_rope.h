// What stands between the projection of queries, keys and values and attention, in one pass:
// RMS norm of each head with weights of their own for q and k, rotary embedding, and v as it is.
//   q: out = rope(x / sqrt(mean(x^2) + eps) * q_weight);  k: the same with k_weight;  v: out = x
// q [B, T, H, D], k and v [B, T, Hkv, D] with unit stride in D and any others: inputs are views of
// one fused projection [B, T, H + 2 Hkv, D], outputs may be positions of a joint sequence.
#pragma once

#include "kernels/rope.h"
#include "tensor/tensor.h"

namespace parlo {

struct QkvHeads {
  Tensor q, k, v;
};

struct QkNormRope {
  bool norm = true;
  Tensor q_weight, k_weight;  // [D]; undefined: 1
  double eps = 1e-6;
  Tensor cos, sin;  // [T, D/2] as in kernels/rope.h; undefined: no rotation
  RopeStyle style = RopeStyle::pairs;
};

// Gradients to write; undefined tensors are skipped. Those of weights are summed in a fixed order.
struct QkNormRopeGrads {
  QkvHeads dx;
  Tensor dq_weight, dk_weight;
};

namespace cpu {

// Heads whose output is undefined are skipped; outputs may be the inputs.
void qk_norm_rope(const QkvHeads& x, const QkNormRope& p, const QkvHeads& out);
// x: the forward's inputs (q and k where there is a norm), dout: gradients of its outputs, which
// may be dx. The sums of the norms are computed again: nothing is kept between the two.
void qk_norm_rope_backward(const QkvHeads& x, const QkNormRope& p, const QkvHeads& dout,
                           const QkNormRopeGrads& grads);

}  // namespace cpu

// The same on a GPU: kernels/cuda. Heads of at most 256.
namespace cuda {
decltype(cpu::qk_norm_rope) qk_norm_rope;
decltype(cpu::qk_norm_rope_backward) qk_norm_rope_backward;
}  // namespace cuda
}  // namespace parlo
