// Rotary embedding: (a, b) -> (a cos - b sin, b cos + a sin) per pair; inverse negates the sine.
#include "kernels/rope.h"

#include "kernels/cpu/checks.h"
#include "kernels/rope_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

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

}  // namespace

void rope(const Tensor& x, const Tensor& cos, const Tensor& sin, RopeStyle style, bool inverse,
          const Tensor& y) {
  check_rope(x, cos, sin, y, x.dtype());
  const int64_t B = x.dim(0), steps = x.dim(1), H = x.dim(2), half = x.dim(3) / 2;
  visit_float(x.dtype(), "rope", [&](auto type) {
    using T = decltype(type);
    const T sign = inverse ? T{-1} : T{1};
    const Shape &from = x.strides(), &to = y.strides();
    parallel_for(B * steps, row_grain(H * half * 2), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t b = k / steps, t = k % steps;
        const T *c = cos.data<T>() + t * half, *s = sin.data<T>() + t * half;
        for (int64_t h = 0; h < H; ++h) {
          const T* px = x.data<T>() + b * from[0] + t * from[1] + h * from[2];
          T* py = y.data<T>() + b * to[0] + t * to[1] + h * to[2];
          if (style == RopeStyle::pairs) {
            rotate_pairs(px, c, s, sign, half, py);
          } else {
            rotate_halves(px, c, s, sign, half, py);
          }
        }
      }
    });
  });
}

}  // namespace parlo::cpu
