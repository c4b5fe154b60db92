// Scaled dot-product attention in tiles: the T x T scores are never stored.
//   out = softmax(scale * q k' + mask) v,  lse = log sum exp of each masked score row
// Layout [B, T, H, D] with any strides except the last axis (stride 1); f32 or f64. k and v may
// have fewer heads (grouped queries: H a multiple of Hkv). Results do not depend on threads.
#pragma once

#include "tensor/tensor.h"

namespace parlo {

struct AttentionArgs {
  double scale = 1.0;
  bool causal = false;  // query i sees keys j <= i + (Tk - Tq)
  Tensor key_lengths;   // [B] i64, optional: keys at and beyond the length are masked; a row
                        // without any key gives zeros
  Tensor key_mask;      // [B, Tk] u8, optional: keys with 0 are masked
};

namespace cpu {

// out [B, Tq, H, D], lse [B, H, Tq] contiguous.
void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
               const Tensor& lse, const AttentionArgs& args);

// Writes (does not accumulate) dq, dk, dv, shaped as q, k, v; recomputes the scores from lse.
void attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                        const Tensor& dv, const AttentionArgs& args);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::attention) attention;
decltype(cpu::attention_backward) attention_backward;
}  // namespace cuda
}  // namespace parlo
