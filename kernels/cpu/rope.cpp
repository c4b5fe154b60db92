#include "kernels/rope.h"

#include "kernels/cpu/checks.h"
#include "kernels/cpu/rotate.h"
#include "kernels/rope_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {

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
          rotate(style, px, c, s, sign, half, py);
        }
      }
    });
  });
}

}  // namespace parlo::cpu
