// Attention: checks, then the tiles of every (batch, head) in parallel. A key mask that only pads
// is turned into lengths; samples with holes in theirs take the plain loops.
#include "kernels/attention.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/attention_generic.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

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

Tensor sample(const Tensor& x, int64_t b) {
  return x.slice(0, b, b + 1);
}
Tokens sample(const Tokens& x, int64_t b) {
  return {sample(x.first, b), x.second ? sample(x.second, b) : Tensor()};
}

// Calls one(sample b of an operand, its arguments) so that the path depends on that sample's mask
// alone. False when the call can go on: there is no mask, or one sample's with holes.
template <class Fn>
bool split_masked(const AttentionShape& s, const AttentionArgs& args, Fn&& one) {
  if (!s.key_mask) return false;
  AttentionArgs part = args;
  if (Tensor lengths = lengths_of_mask(s)) {
    part.key_mask = {};
    part.key_lengths = lengths;
    one([](const auto& x) { return x; }, part);
    return true;
  }
  if (s.batch == 1) return false;
  for (int64_t b = 0; b < s.batch; ++b) {
    part.key_mask = sample(args.key_mask, b);
    if (args.key_lengths) part.key_lengths = sample(args.key_lengths, b);
    one([b](const auto& x) { return sample(x, b); }, part);
  }
  return true;
}

}  // namespace

void attention(const Tokens& q, const Tokens& k, const Tokens& v, const Tokens& out,
               const Tensor& lse, const AttentionArgs& args) {
  const DType dtype = q.first.dtype();
  const AttentionShape s = check_attention("attention", q, k, v, out, lse, dtype, args);
  if (s.batch * s.heads * s.tq == 0) return;
  if (split_masked(s, args, [&](auto part, const AttentionArgs& a) {
        attention(part(q), part(k), part(v), part(out), part(lse), a);
      }))
    return;
  visit_float(dtype, "attention", [&](auto zero) {
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

void attention_backward(const Tokens& q, const Tokens& k, const Tokens& v, const Tokens& out,
                        const Tensor& lse, const Tokens& dout, const Tokens& dq, const Tokens& dk,
                        const Tokens& dv, const AttentionArgs& args) {
  const char* name = "attention_backward";
  const DType dtype = q.first.dtype();
  const AttentionShape s = check_attention(name, q, k, v, out, lse, dtype, args);
  check_attention_gradients(name, s, q, k, dout, dq, dk, dv);
  if (s.batch * s.kv_heads == 0) return;
  if (split_masked(s, args, [&](auto part, const AttentionArgs& a) {
        attention_backward(part(q), part(k), part(v), part(out), part(lse), part(dout), part(dq),
                           part(dk), part(dv), a);
      }))
    return;
  visit_float(dtype, name, [&](auto zero) {
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
