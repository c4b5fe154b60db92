// The operands of one attention call, as the generic and the f32 kernels read them.
#pragma once

#include <cstdint>

#include "kernels/attention_checks.h"

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
