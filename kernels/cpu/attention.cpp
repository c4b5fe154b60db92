// Attention: checks, then the tiles of every (batch, head) in parallel. A key mask that only pads
// is turned into lengths; samples with holes in theirs take the plain loops.
#include "kernels/attention.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/attention_generic.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

void check_heads(const char* function, const char* name, const Tensor& t, DType dtype) {
  CHECK(t.defined() && t.rank() == 4, function, ": ", name, " has shape ", t.shape(),
        ", expected (B, T, H, D)");
  CHECK(t.dtype() == dtype, function, ": ", name, " is ", dtype_name(t.dtype()), ", q is ",
        dtype_name(dtype), "; convert with Tensor::to");
  CHECK(t.dim(3) <= 1 || t.strides()[3] == 1, function, ": the last axis of ", name, " has stride ",
        t.strides()[3], ", expected 1; call contiguous()");
}

AttentionShape check_args(const char* function, const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& out, const Tensor& lse, const AttentionArgs& args) {
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
  CHECK(lse.is_contiguous() && lse.dtype() == q.dtype(), function, ": lse is ",
        dtype_name(lse.dtype()), ", expected contiguous ", dtype_name(q.dtype()));
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

// Visible keys of each sample when every row of the mask is ones, then zeros (padding); else
// nothing.
Tensor lengths_of_mask(const AttentionShape& s) {
  const Tensor lengths = Tensor::empty({s.batch}, DType::i64);
  for (int64_t b = 0; b < s.batch; ++b) {
    int64_t n = 0;
    while (n < s.tk && !s.hidden(b, n)) ++n;
    for (int64_t j = n; j < s.tk; ++j)
      if (!s.hidden(b, j)) return {};
    lengths.data<int64_t>()[b] = s.key_lengths ? std::min(n, s.key_lengths[b]) : n;
  }
  return lengths;
}

// Calls one(sample b of a tensor, its arguments) so that the path depends on that sample's mask
// alone. False when the call can go on: there is no mask, or one sample's with holes.
template <class Fn>
bool split_masked(const AttentionShape& s, const AttentionArgs& args, Fn&& one) {
  if (!s.key_mask) return false;
  AttentionArgs part = args;
  if (Tensor lengths = lengths_of_mask(s)) {
    part.key_mask = {};
    part.key_lengths = lengths;
    one([](const Tensor& t) { return t; }, part);
    return true;
  }
  if (s.batch == 1) return false;
  for (int64_t b = 0; b < s.batch; ++b) {
    const auto sample = [b](const Tensor& t) { return t.slice(0, b, b + 1); };
    part.key_mask = sample(args.key_mask);
    if (args.key_lengths) part.key_lengths = sample(args.key_lengths);
    one(sample, part);
  }
  return true;
}

}  // namespace

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
               const Tensor& lse, const AttentionArgs& args) {
  const AttentionShape s = check_args("attention", q, k, v, out, lse, args);
  if (s.batch * s.heads * s.tq == 0) return;
  if (split_masked(s, args, [&](auto part, const AttentionArgs& a) {
        attention(part(q), part(k), part(v), part(out), part(lse), a);
      }))
    return;
  visit_float(q.dtype(), "attention", [&](auto zero) {
    using T = decltype(zero);
    const AttentionForwardArgs<T> f{s,
                                    static_cast<T>(args.scale),
                                    Heads<T>(q),
                                    Heads<T>(k),
                                    Heads<T>(v),
                                    Heads<T>(out),
                                    lse.data<T>()};
    if constexpr (std::is_same_v<T, float>)
      if (!s.key_mask) return attention_f32(f);
    const AttentionForward<T> plain{f};
    parallel_for(s.batch * s.heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) plain.head(i / s.heads, i % s.heads);
    });
  });
}

void attention_backward(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                        const Tensor& lse, const Tensor& dout, const Tensor& dq, const Tensor& dk,
                        const Tensor& dv, const AttentionArgs& args) {
  const char* name = "attention_backward";
  const AttentionShape s = check_args(name, q, k, v, out, lse, args);
  check_heads(name, "dout", dout, q.dtype());
  check_heads(name, "dq", dq, q.dtype());
  check_heads(name, "dk", dk, q.dtype());
  check_heads(name, "dv", dv, q.dtype());
  check_shape(name, "dout", dout, q.shape());
  check_shape(name, "dq", dq, q.shape());
  check_shape(name, "dk", dk, k.shape());
  check_shape(name, "dv", dv, k.shape());
  if (s.batch * s.kv_heads == 0) return;
  if (split_masked(s, args, [&](auto part, const AttentionArgs& a) {
        attention_backward(part(q), part(k), part(v), part(out), part(lse), part(dout), part(dq),
                           part(dk), part(dv), a);
      }))
    return;
  visit_float(q.dtype(), name, [&](auto zero) {
    using T = decltype(zero);
    const AttentionBackwardArgs<T> f{s,
                                     static_cast<T>(args.scale),
                                     Heads<T>(q),
                                     Heads<T>(k),
                                     Heads<T>(v),
                                     Heads<T>(out),
                                     Heads<T>(dout),
                                     Heads<T>(dq),
                                     Heads<T>(dk),
                                     Heads<T>(dv),
                                     lse.data<T>()};
    if constexpr (std::is_same_v<T, float>)
      if (!s.key_mask) return attention_backward_f32(f);
    const AttentionBackward<T> plain{f};
    parallel_for(s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) plain.key_head(i / s.kv_heads, i % s.kv_heads);
    });
  });
}

}  // namespace parlo::cpu
