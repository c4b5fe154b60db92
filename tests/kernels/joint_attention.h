// Attention over a token axis in two tensors, and the same operands concatenated.
#pragma once

#include "kernels/attention.h"

#include "tests/support.h"

namespace parlo::test {

// Queries and keys of the first and of the second tensor.
struct JointSizes {
  int64_t batch, tq0, tq1, tk0, tk1, heads, kv_heads, d;

  int64_t tq() const { return tq0 + tq1; }
  int64_t tk() const { return tk0 + tk1; }
  Shape lse() const { return {batch, heads, tq()}; }
};

inline Tensor joined(const Tokens& x) {
  Shape shape = x.first.shape();
  shape[1] = x.count();
  const Tensor y = Tensor::empty(shape, x.first.dtype(), x.first.device());
  y.slice(1, 0, x.first.dim(1)).copy_from(x.first);
  if (x.second) y.slice(1, x.first.dim(1), x.count()).copy_from(x.second);
  return y;
}

// q, k and v, or three other operands of their shapes, each in two tensors. Fused: slices of one
// tensor [B, T, H + 2 Hkv, D] a half.
struct TokensQkv {
  Tokens q, k, v;

  template <class Make>  // Make(shape, seed)
  TokensQkv(const JointSizes& s, bool fused, Make make) : q(Tensor()), k(Tensor()), v(Tensor()) {
    const int64_t h = s.heads, g = s.kv_heads;
    for (uint32_t i = 0; i < 2; ++i) {
      const auto half = i == 0 ? &Tokens::first : &Tokens::second;
      const int64_t tq = i == 0 ? s.tq0 : s.tq1, tk = i == 0 ? s.tk0 : s.tk1;
      if (fused) {
        const Tensor all = make(Shape{s.batch, std::max(tq, tk), h + 2 * g, s.d}, 10 + i);
        q.*half = all.slice(2, 0, h).slice(1, 0, tq);
        k.*half = all.slice(2, h, h + g).slice(1, 0, tk);
        v.*half = all.slice(2, h + g, h + 2 * g).slice(1, 0, tk);
      } else {
        q.*half = make(Shape{s.batch, tq, h, s.d}, 20 + i);
        k.*half = make(Shape{s.batch, tk, g, s.d}, 30 + i);
        v.*half = make(Shape{s.batch, tk, g, s.d}, 40 + i);
      }
    }
  }
};

enum JointMask { kAllSeen, kCausalOrder, kKeyLengths, kKeyHoles, kEveryMask };
constexpr JointMask kJointMasks[] = {kAllSeen, kCausalOrder, kKeyLengths, kKeyHoles, kEveryMask};

// Masks of the joint axis.
inline AttentionArgs joint_args(const JointSizes& s, JointMask mask) {
  AttentionArgs args;
  args.scale = 1 / std::sqrt(static_cast<double>(s.d));
  args.causal = mask == kCausalOrder || mask == kEveryMask;
  if (mask == kKeyLengths || mask == kEveryMask) {
    std::vector<int64_t> keys;  // ends in the second tensor, in the first, nowhere
    for (int64_t b = 0; b < s.batch; ++b) {
      keys.push_back(b % 3 == 0 ? s.tk0 + s.tk1 / 2 : b % 3 == 1 ? s.tk0 / 2 : s.tk() + 5);
    }
    args.key_lengths = Tensor::from(keys, {s.batch});
  }
  if (mask == kKeyHoles || mask == kEveryMask) {
    std::vector<uint8_t> seen;
    for (int64_t i = 0; i < s.batch * s.tk(); ++i) seen.push_back(i % 3 != 1);
    args.key_mask = Tensor::from(seen, {s.batch, s.tk()});
  }
  return args;
}

// Results on the joint axis.
struct JointAnswer {
  Tensor out, lse, dq, dk, dv;
};
inline bool same_answer(const JointAnswer& a, const JointAnswer& b) {
  return same_values(a.out, b.out) && same_values(a.lse, b.lse) && same_values(a.dq, b.dq) &&
         same_values(a.dk, b.dk) && same_values(a.dv, b.dv);
}

// Operands by in(shape, seed), room for results by out(shape).
struct JointProblem {
  TokensQkv x, other, outs, grads;
  Tensor lse;

  template <class In, class Out>
  JointProblem(const JointSizes& s, bool fused, In in, Out out, const Tensor& lse_room)
      : x(s, fused, in),
        other(s, fused, [&](const Shape& shape, uint32_t seed) { return in(shape, seed + 100); }),
        outs(s, !fused, [&](const Shape& shape, uint32_t) { return out(shape); }),
        grads(s, fused, [&](const Shape& shape, uint32_t) { return out(shape); }),
        lse(lse_room) {}

  JointAnswer run(const AttentionArgs& args, decltype(cpu::attention) forward,
                  decltype(cpu::attention_backward) backward) const {
    forward(x.q, x.k, x.v, outs.q, lse, args);
    backward(x.q, x.k, x.v, outs.q, lse, other.q, grads.q, grads.k, grads.v, args);
    return {joined(outs.q), lse, joined(grads.q), joined(grads.k), joined(grads.v)};
  }
  JointAnswer run_concatenated(const AttentionArgs& args, decltype(cpu::attention) forward,
                               decltype(cpu::attention_backward) backward) const {
    const Tensor q = joined(x.q), k = joined(x.k), v = joined(x.v);
    const JointAnswer a{Tensor::empty_like(q), Tensor::empty_like(lse), Tensor::empty_like(q),
                        Tensor::empty_like(k), Tensor::empty_like(k)};
    forward(q, k, v, a.out, a.lse, args);
    backward(q, k, v, a.out, a.lse, joined(other.q), a.dq, a.dk, a.dv, args);
    return a;
  }
};

inline std::string name_of(const JointSizes& s, JointMask mask, bool fused, DType dtype) {
  return concat(dtype_name(dtype), " B ", s.batch, " Tq ", s.tq0, " + ", s.tq1, " Tk ", s.tk0,
                " + ", s.tk1, " H ", s.heads, " Hkv ", s.kv_heads, " D ", s.d, " mask ",
                static_cast<int>(mask), fused ? " fused" : "");
}

}  // namespace parlo::test
