// Problems for the tests of attention on a GPU, in every mask.
#pragma once

#include "kernels/attention.h"

#include "tests/gpu_support.h"

namespace parlo::test {

struct AttentionTestSizes {
  int64_t batch, tq, tk, heads, kv_heads, d;
};
enum Mask { kFull, kCausal, kLengths, kHoles, kCausalLengths, kAll };
constexpr Mask kMasks[] = {kFull, kCausal, kLengths, kHoles, kCausalLengths, kAll};

inline bool is_causal(Mask m) {
  return m == kCausal || m == kCausalLengths || m == kAll;
}

struct AttentionProblem {
  Tensor q, k, v, dout;
  AttentionArgs args;
};

inline AttentionProblem attention_problem(const AttentionTestSizes& s, Mask mask, DType dtype) {
  AttentionProblem p;
  p.q = random_tensor({s.batch, s.tq, s.heads, s.d}, 1, dtype);
  p.k = random_tensor({s.batch, s.tk, s.kv_heads, s.d}, 2, dtype);
  p.v = random_tensor({s.batch, s.tk, s.kv_heads, s.d}, 3, dtype);
  p.dout = random_tensor({s.batch, s.tq, s.heads, s.d}, 4, dtype);
  p.args.scale = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, s.d)));
  p.args.causal = is_causal(mask);
  if (mask == kLengths || mask == kCausalLengths || mask == kAll) {
    std::vector<int64_t> keys;  // none, some, more than there are
    for (int64_t b = 0; b < s.batch; ++b) {
      keys.push_back(b % 3 == 1 ? 0 : (b % 3 == 0 ? s.tk * 2 / 3 : s.tk + 5));
    }
    p.args.key_lengths = Tensor::from(keys, {s.batch});
  }
  if (mask == kHoles || mask == kAll) {
    std::vector<uint8_t> seen;
    for (int64_t i = 0; i < s.batch * s.tk; ++i) seen.push_back(i % 3 != 1);
    p.args.key_mask = Tensor::from(seen, {s.batch, s.tk});
  }
  return p;
}

// For the CPU, whose operands here are contiguous.
inline AttentionProblem converted(const AttentionProblem& p, DType dtype) {
  const auto plain = [&](const Tensor& x) { return x.defined() ? x.to(dtype).contiguous() : x; };
  return {plain(p.q), plain(p.k), plain(p.v), plain(p.dout), p.args};
}
inline AttentionProblem moved(const AttentionProblem& p) {
  AttentionArgs args = p.args;
  args.key_lengths = on_gpu(args.key_lengths), args.key_mask = on_gpu(args.key_mask);
  return {on_gpu(p.q), on_gpu(p.k), on_gpu(p.v), on_gpu(p.dout), args};
}

}  // namespace parlo::test
