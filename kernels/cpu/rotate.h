// Rotary embedding of one head: (a, b) -> (a cos - b sin, b cos + a sin) per pair; sign -1 is the
// inverse. y may be x.
#pragma once

#include <cstdint>

#include "kernels/rope.h"

namespace parlo::cpu {

template <class T>
void rotate_pairs(const T* x, const T* cos, const T* sin, T sign, int64_t half, T* y) {
  for (int64_t i = 0; i < half; ++i) {
    const T a = x[2 * i], b = x[2 * i + 1], s = sign * sin[i];
    y[2 * i] = a * cos[i] - b * s;
    y[2 * i + 1] = b * cos[i] + a * s;
  }
}

template <class T>
void rotate_halves(const T* x, const T* cos, const T* sin, T sign, int64_t half, T* y) {
  for (int64_t i = 0; i < half; ++i) {
    const T a = x[i], b = x[i + half], s = sign * sin[i];
    y[i] = a * cos[i] - b * s;
    y[i + half] = b * cos[i] + a * s;
  }
}

template <class T>
void rotate(RopeStyle style, const T* x, const T* cos, const T* sin, T sign, int64_t half, T* y) {
  if (style == RopeStyle::pairs) {
    rotate_pairs(x, cos, sin, sign, half, y);
  } else {
    rotate_halves(x, cos, sin, sign, half, y);
  }
}

}  // namespace parlo::cpu
