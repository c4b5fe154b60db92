// Attention: checks, then the tiles of every (batch, head) in parallel.
#include "kernels/attention.h"

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
  return s;
}

}  // namespace

void attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
               const Tensor& lse, const AttentionArgs& args) {
  const AttentionShape s = check_args("attention", q, k, v, out, lse, args);
  if (s.batch * s.heads * s.tq == 0) return;
  visit_float(q.dtype(), "attention", [&](auto zero) {
    using T = decltype(zero);
    const AttentionForwardArgs<T> f{s,
                                    static_cast<T>(args.scale),
                                    Heads<T>(q),
                                    Heads<T>(k),
                                    Heads<T>(v),
                                    Heads<T>(out),
                                    lse.data<T>()};
    if constexpr (std::is_same_v<T, float>) return attention_f32(f);
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
    if constexpr (std::is_same_v<T, float>) return attention_backward_f32(f);
    const AttentionBackward<T> plain{f};
    parallel_for(s.batch * s.kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) plain.key_head(i / s.kv_heads, i % s.kv_heads);
    });
  });
}

}  // namespace parlo::cpu
