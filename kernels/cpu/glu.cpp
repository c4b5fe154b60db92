// Made of the element-wise maps, a row at a time, while the row is in the L1.
#include "kernels/glu.h"

#include <algorithm>
#include <type_traits>

#include "kernels/cpu/isa/elementwise_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/elementwise.h"
#include "kernels/glu_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

constexpr int64_t kValues = 8192;  // a task

template <class Row>
void for_rows(const GluShape& s, Row row) {
  if (s.columns == 0) return;
  const int64_t grain = std::max<int64_t>(1, kValues / s.columns);
  parallel_for(s.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(r);
  });
}

// Rows of f32 by the tables of isa/, of f64 by the functions that have plain loops.
struct Maps32 {
  Activation f;
  int64_t n;
  void value(const float* a, float* y) const { table().activation[static_cast<int>(f)](a, y, n); }
  void slope(const float* a, const float* dy, float* da) const {
    table().activation_backward[static_cast<int>(f)](a, dy, da, n);
  }
  void mul(const float* a, const float* b, float* y) const {
    table().binary[static_cast<int>(Binary::mul)](a, 1, b, 1, y, n);
  }
  static const ElementwiseIsa& table() { return PARLO_ISA_TABLE(elementwise); }
};

struct Maps64 {
  Activation f;
  int64_t n;
  Tensor in = Tensor::empty({n}, DType::f64), out = Tensor::empty({n}, DType::f64);
  void value(const double* a, double* y) const {
    std::copy_n(a, n, in.data<double>());
    activation(f, in, out);
    std::copy_n(out.data<double>(), n, y);
  }
  void slope(const double* a, const double* dy, double* da) const {
    std::copy_n(a, n, in.data<double>());
    std::copy_n(dy, n, out.data<double>());
    activation_backward(f, in, out, out);
    std::copy_n(out.data<double>(), n, da);
  }
  void mul(const double* a, const double* b, double* y) const {
    for (int64_t i = 0; i < n; ++i) y[i] = a[i] * b[i];
  }
};

template <class T>
auto maps(Activation f, int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    return Maps32{f, n};
  } else {
    return Maps64{f, n};
  }
}

}  // namespace

void glu(Activation f, const Tensor& x, const Tensor& y) {
  const GluShape s = check_glu("glu", x, y);
  visit_float(x.dtype(), "glu", [&](auto type) {
    using T = decltype(type);
    for_rows(s, [&](int64_t r) {
      const auto map = maps<T>(f, s.columns);
      const T* a = x.data<T>() + 2 * r * s.columns;
      T* to = y.data<T>() + r * s.columns;
      map.value(a, to);
      map.mul(to, a + s.columns, to);
    });
  });
}

void glu_backward(Activation f, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  const GluShape s = check_glu("glu_backward", x, dy);
  check_output("glu_backward", "dx", dx, x.dtype(), x.numel());
  visit_float(x.dtype(), "glu_backward", [&](auto type) {
    using T = decltype(type);
    for_rows(s, [&](int64_t r) {
      const auto map = maps<T>(f, s.columns);
      const T *a = x.data<T>() + 2 * r * s.columns, *b = a + s.columns;
      const T* d = dy.data<T>() + r * s.columns;
      T *da = dx.data<T>() + 2 * r * s.columns, *db = da + s.columns;
      map.mul(d, b, db);
      map.slope(a, db, da);
      map.value(a, db);
      map.mul(db, d, db);
    });
  });
}

}  // namespace parlo::cpu
