// A head's row at a time: norm and rotation while it is in the L1.
#include "kernels/norm_rope.h"

#include <cmath>

#include "kernels/cpu/checks.h"
#include "kernels/norm_rope_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// What is at one position t: cosines and sines of half a head, or nothing.
template <class T>
struct Angles {
  const T *cos = nullptr, *sin = nullptr;

  Angles(const NormRope& p, int64_t t, int64_t half) {
    if (!p.cos) return;
    cos = p.cos.data<T>() + t * half, sin = p.sin.data<T>() + t * half;
  }
  // Rotates by the angles, or back.
  void rotate(T* row, int64_t half, RopeStyle style, T sign) const {
    if (!cos) return;
    const int64_t step = style == RopeStyle::pairs ? 2 : 1;
    const int64_t apart = style == RopeStyle::pairs ? 1 : half;
    for (int64_t i = 0; i < half; ++i) {
      T &a = row[step * i], &b = row[step * i + apart];
      const T p = a, q = b, s = sign * sin[i];
      a = p * cos[i] - q * s;
      b = q * cos[i] + p * s;
    }
  }
};

template <class T>
T reciprocal_root(const T* x, int64_t n, double eps) {
  T squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
  return T{1} / std::sqrt(squares / static_cast<T>(n) + static_cast<T>(eps));
}

// row(b, t, h) of every head.
template <class Row>
void for_heads(const Tensor& x, Row row) {
  const int64_t steps = x.dim(1), heads = x.dim(2);
  parallel_for(x.dim(0) * steps, row_grain(heads * x.dim(3)), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      for (int64_t h = 0; h < heads; ++h) row(k / steps, k % steps, h);
    }
  });
}

template <class T>
T* at(const Tensor& t, int64_t b, int64_t step, int64_t h) {
  const Shape& s = t.strides();
  return t.data<T>() + b * s[0] + step * s[1] + h * s[2];
}

}  // namespace

void norm_rope(const Tensor& x, const NormRope& p, const Tensor& y) {
  check_norm_rope("norm_rope", x, p, x.dtype(), x.dtype());
  check_head_rows("norm_rope", "y", y, x);
  const int64_t n = x.dim(3);
  visit_float(x.dtype(), "norm_rope", [&](auto type) {
    using T = decltype(type);
    const T* weight = p.weight ? p.weight.data<T>() : nullptr;
    for_heads(x, [&](int64_t b, int64_t t, int64_t h) {
      const T* from = at<T>(x, b, t, h);
      T* to = at<T>(y, b, t, h);
      const T rstd = reciprocal_root(from, n, p.eps);
      for (int64_t i = 0; i < n; ++i) to[i] = from[i] * rstd * (weight ? weight[i] : T{1});
      Angles<T>(p, t, n / 2).rotate(to, n / 2, p.style, T{1});
    });
  });
}

// With z = rope^-1(dy), g = z weight: dx = rstd (g - xhat mean(g xhat)).
void norm_rope_backward(const Tensor& x, const NormRope& p, const Tensor& dy, const Tensor& dx) {
  check_norm_rope("norm_rope_backward", x, p, x.dtype(), x.dtype());
  check_head_rows("norm_rope_backward", "dy", dy, x);
  check_head_rows("norm_rope_backward", "dx", dx, x);
  const int64_t n = x.dim(3);
  visit_float(x.dtype(), "norm_rope_backward", [&](auto type) {
    using T = decltype(type);
    const T* weight = p.weight ? p.weight.data<T>() : nullptr;
    for_heads(x, [&](int64_t b, int64_t t, int64_t h) {
      const T *from = at<T>(x, b, t, h), *d = at<T>(dy, b, t, h);
      T* to = at<T>(dx, b, t, h);
      T g[kMostHeadColumns];
      for (int64_t i = 0; i < n; ++i) g[i] = d[i];
      Angles<T>(p, t, n / 2).rotate(g, n / 2, p.style, T{-1});
      const T rstd = reciprocal_root(from, n, p.eps);
      T dot = 0;
      for (int64_t i = 0; i < n; ++i) {
        if (weight) g[i] *= weight[i];
        dot += g[i] * from[i] * rstd;
      }
      dot /= static_cast<T>(n);
      for (int64_t i = 0; i < n; ++i) to[i] = rstd * (g[i] - from[i] * rstd * dot);
    });
  });
}

}  // namespace parlo::cpu
