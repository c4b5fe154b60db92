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

// x is cut into tensors where `cut` is, of the shape [batch, its T, heads, d].
inline void check_tokens(const char* function, const char* name, const Tokens& x, const Tokens& cut,
                         const AttentionShape& s, int64_t heads, DType dtype) {
  CHECK(x.second.defined() == cut.second.defined(), function, ": ", name, " has ",
        x.second ? "two tensors, expected one" : "one tensor, expected two");
  for (auto part : {&Tokens::first, &Tokens::second}) {
    if (part == &Tokens::second && !x.second) continue;
    check_heads(function, name, x.*part, dtype);
    check_shape(function, name, x.*part, {s.batch, (cut.*part).dim(1), heads, s.d});
  }
}

// lse_dtype: q's on the CPU; f32 on a GPU.
inline AttentionShape check_attention(const char* function, const Tokens& q, const Tokens& k,
                                      const Tokens& v, const Tokens& out, const Tensor& lse,
                                      DType lse_dtype, const AttentionArgs& args) {
  const DType dtype = q.first.dtype();
  check_heads(function, "q", q.first, dtype);
  check_heads(function, "k", k.first, dtype);
  AttentionShape s;
  s.batch = q.first.dim(0), s.heads = q.first.dim(2), s.d = q.first.dim(3);
  s.kv_heads = k.first.dim(2), s.causal = args.causal;
  check_tokens(function, "q", q, q, s, s.heads, dtype);
  check_tokens(function, "k", k, k, s, s.kv_heads, dtype);
  check_tokens(function, "v", v, k, s, s.kv_heads, dtype);
  check_tokens(function, "out", out, q, s, s.heads, dtype);
  s.tq = q.count(), s.tk = k.count();
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
inline void check_attention_gradients(const char* function, const AttentionShape& s,
                                      const Tokens& q, const Tokens& k, const Tokens& dout,
                                      const Tokens& dq, const Tokens& dk, const Tokens& dv) {
  const DType dtype = q.first.dtype();
  check_tokens(function, "dout", dout, q, s, s.heads, dtype);
  check_tokens(function, "dq", dq, q, s, s.heads, dtype);
  check_tokens(function, "dk", dk, k, s, s.kv_heads, dtype);
  check_tokens(function, "dv", dv, k, s, s.kv_heads, dtype);
}

}  // namespace parlo
