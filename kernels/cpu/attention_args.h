// The operands of one attention call, as the generic and the f32 kernels read them.
#pragma once

#include <cstdint>

#include "kernels/attention_checks.h"

namespace parlo::cpu {

// Pointers and strides (elements) of the rows of one operand, in one or two tensors.
template <class T>
struct Heads {
  struct Part {
    T* data = nullptr;
    int64_t b = 0, t = 0, h = 0;
    T* row(int64_t batch, int64_t token, int64_t head) const {
      return data + batch * b + token * t + head * h;
    }
  };
  Part first, second;
  int64_t split = 0;  // tokens of the first

  Heads() = default;  // an operand that is not there
  explicit Heads(const Tokens& x) : first(part_of(x.first)), split(x.first.dim(1)) {
    if (x.second) second = part_of(x.second);
  }
  T* row(int64_t batch, int64_t token, int64_t head) const {
    return token < split ? first.row(batch, token, head) : second.row(batch, token - split, head);
  }
  // Distance of rows from `token` on, in its tensor.
  int64_t stride(int64_t token) const { return token < split ? first.t : second.t; }
  // Calls fn(begin, end) for the tokens of [from, to) in the one tensor and in the other.
  template <class Fn>
  void each_part(int64_t from, int64_t to, Fn&& fn) const {
    if (from < std::min(split, to)) fn(from, std::min(split, to));
    if (std::max(split, from) < to) fn(std::max(split, from), to);
  }

 private:
  static Part part_of(const Tensor& x) {
    return {x.data<T>(), x.strides()[0], x.strides()[1], x.strides()[2]};
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
