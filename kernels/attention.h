// Scaled dot-product attention in tiles: the T x T scores are never stored.
//   out = softmax(scale * q k' + mask) v,  lse = log sum exp of each masked score row
// Layout [B, T, H, D] with any strides except the last axis (stride 1); f32 or f64. k and v may
// have fewer heads (grouped queries: H a multiple of Hkv). Results do not depend on threads.
#pragma once

#include "tensor/tensor.h"

namespace parlo {

// A token axis: one tensor, or two that follow each other on it, each [B, its T, H, D] with strides
// of its own. Image and text tokens attend to each other where they lie, without a joint copy.
struct Tokens {
  Tensor first, second;  // second may be undefined

  Tokens(const Tensor& only) : first(only) {}  // NOLINT: a tensor is an axis of tokens
  Tokens(const Tensor& a, const Tensor& b) : first(a), second(b) {}
  int64_t count() const { return first.dim(1) + (second ? second.dim(1) : 0); }
};

// Queries, keys and masks are numbered over both tensors.
struct AttentionArgs {
  double scale = 1.0;
  bool causal = false;  // query i sees keys j <= i + (Tk - Tq)
  Tensor key_lengths;   // [B] i64, optional: keys at and beyond the length are masked; a row
                        // without any key gives zeros
  Tensor key_mask;      // [B, Tk] u8, optional: keys with 0 are masked
};

namespace cpu {

// out as q, lse [B, H, Tq] contiguous. q and out are cut into two at one token, k and v at another.
void attention(const Tokens& q, const Tokens& k, const Tokens& v, const Tokens& out,
               const Tensor& lse, const AttentionArgs& args);

// Writes (does not accumulate) dq, dk, dv, shaped as q, k, v; recomputes the scores from lse.
void attention_backward(const Tokens& q, const Tokens& k, const Tokens& v, const Tokens& out,
                        const Tensor& lse, const Tokens& dout, const Tokens& dq, const Tokens& dk,
                        const Tokens& dv, const AttentionArgs& args);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::attention) attention;
decltype(cpu::attention_backward) attention_backward;
}  // namespace cuda
}  // namespace parlo
