// The operands of one attention call, as the generic and the f32 kernels read them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/attention.h"

namespace parlo::cpu {

// Pointers and strides (elements) of one [B, T, H, D] operand.
template <class T>
struct Heads {
  T* data = nullptr;
  int64_t b = 0, t = 0, h = 0;

  Heads() = default;
  explicit Heads(const Tensor& x)
      : data(x.data<T>()), b(x.strides()[0]), t(x.strides()[1]), h(x.strides()[2]) {}
  T* row(int64_t batch, int64_t token, int64_t head) const {
    return data + batch * b + token * t + head * h;
  }
};

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

template <class T>
struct AttentionForwardArgs {
  AttentionShape s;
  T scale;
  Heads<T> q, k, v, out;
  T* lse;
};

template <class T>
struct AttentionBackwardArgs {
  AttentionShape s;
  T scale;
  Heads<T> q, k, v, out, dout, dq, dk, dv;
  const T* lse;
};

// f32 by register tiles, all heads in parallel. They do not read key_mask.
void attention_f32(const AttentionForwardArgs<float>& args);
void attention_backward_f32(const AttentionBackwardArgs<float>& args);

}  // namespace parlo::cpu
