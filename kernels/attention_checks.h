// What both backends check of an attention call, and the sizes and masks they read from it.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"

namespace parlo {

// Sizes and masks of one call.
struct AttentionShape {
  int64_t batch = 0, tq = 0, tk = 0, heads = 0, kv_heads = 0, d = 0;
  const int64_t* key_lengths = nullptr;
  const uint8_t* key_mask = nullptr;  // [batch, tk]
  bool causal = false;

  // Keys [0, keys(b, i)) are seen by query i, but for those that are hidden.
  int64_t keys(int64_t b, int64_t i) const {
    int64_t n = tk;
    if (key_lengths) n = std::clamp<int64_t>(key_lengths[b], 0, n);
    if (causal) n = std::clamp<int64_t>(i + tk - tq + 1, 0, n);
    return n;
  }
  bool hidden(int64_t b, int64_t j) const { return key_mask && !key_mask[b * tk + j]; }
};

inline void check_heads(const char* function, const char* name, const Tensor& t, DType dtype) {
  CHECK(t.defined() && t.rank() == 4, function, ": ", name, " has shape ", t.shape(),
        ", expected (B, T, H, D)");
  CHECK(t.dtype() == dtype, function, ": ", name, " is ", dtype_name(t.dtype()), ", q is ",
        dtype_name(dtype), "; convert with Tensor::to");
  CHECK(t.dim(3) <= 1 || t.strides()[3] == 1, function, ": the last axis of ", name, " has stride ",
        t.strides()[3], ", expected 1; call contiguous()");
}

// lse_dtype: q's on the CPU; f32 on a GPU.
inline AttentionShape check_attention(const char* function, const Tensor& q, const Tensor& k,
                                      const Tensor& v, const Tensor& out, const Tensor& lse,
                                      DType lse_dtype, const AttentionArgs& args) {
  check_heads(function, "q", q, q.dtype());
  check_heads(function, "k", k, q.dtype());
  check_heads(function, "v", v, q.dtype());
  check_heads(function, "out", out, q.dtype());
  AttentionShape s;
  s.batch = q.dim(0), s.tq = q.dim(1), s.heads = q.dim(2), s.d = q.dim(3);
  s.tk = k.dim(1), s.kv_heads = k.dim(2), s.causal = args.causal;
  check_shape(function, "k", k, {s.batch, s.tk, s.kv_heads, s.d});
  check_shape(function, "v", v, {s.batch, s.tk, s.kv_heads, s.d});
  check_shape(function, "out", out, q.shape());
  check_shape(function, "lse", lse, {s.batch, s.heads, s.tq});
  CHECK(lse.is_contiguous() && lse.dtype() == lse_dtype, function, ": lse is ",
        dtype_name(lse.dtype()), ", expected contiguous ", dtype_name(lse_dtype));
  CHECK(s.heads == 0 || (s.kv_heads > 0 && s.heads % s.kv_heads == 0), function, ": q has ",
        s.heads, " heads, expected a multiple of the ", s.kv_heads, " heads of k");
  if (args.key_lengths) {
    check_shape(function, "key_lengths", args.key_lengths, {s.batch});
    CHECK(args.key_lengths.is_contiguous(), function, ": key_lengths is not contiguous");
    s.key_lengths = args.key_lengths.data<int64_t>();
  }
  if (args.key_mask) {
    check_shape(function, "key_mask", args.key_mask, {s.batch, s.tk});
    CHECK(args.key_mask.is_contiguous(), function, ": key_mask is not contiguous");
    s.key_mask = args.key_mask.data<uint8_t>();
  }
  return s;
}

// What the backward reads and writes besides the forward's operands.
inline void check_attention_gradients(const char* function, const Tensor& q, const Tensor& k,
                                      const Tensor& dout, const Tensor& dq, const Tensor& dk,
                                      const Tensor& dv) {
  check_heads(function, "dout", dout, q.dtype());
  check_heads(function, "dq", dq, q.dtype());
  check_heads(function, "dk", dk, q.dtype());
  check_heads(function, "dv", dv, q.dtype());
  check_shape(function, "dout", dout, q.shape());
  check_shape(function, "dq", dq, q.shape());
  check_shape(function, "dk", dk, k.shape());
  check_shape(function, "dv", dv, k.shape());
}

}  // namespace parlo
