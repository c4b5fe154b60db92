// y = f(a) * b and its gradients. f32: the tables of isa/elementwise.cpp.
#include "kernels/glu.h"

#include "kernels/cpu/activation.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/elementwise_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/glu_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

void glu_row(Activation f, const float* a, const float* b, float* y, int64_t n) {
  PARLO_ISA_TABLE(elementwise).glu[static_cast<int>(f)](a, b, y, n);
}
void glu_row(Activation f, const double* a, const double* b, double* y, int64_t n) {
  for (int64_t i = 0; i < n; ++i) y[i] = activate(f, a[i]) * b[i];
}

void glu_backward_row(Activation f, const float* a, const float* b, const float* dy, float* da,
                      float* db, int64_t n) {
  PARLO_ISA_TABLE(elementwise).glu_backward[static_cast<int>(f)](a, b, dy, da, db, n);
}
void glu_backward_row(Activation f, const double* a, const double* b, const double* dy, double* da,
                      double* db, int64_t n) {
  for (int64_t i = 0; i < n; ++i) {
    const double x = a[i], y = b[i], d = dy[i];
    if (da) da[i] = activation_slope(f, x) * y * d;
    if (db) db[i] = activate(f, x) * d;
  }
}

template <class T>
T* row(const Tensor& t, int64_t r) {
  return t ? t.data<T>() + r * t.strides()[0] : nullptr;
}

}  // namespace

void glu(Activation f, const Tensor& a, const Tensor& b, const Tensor& y) {
  check_glu(a, b, y);
  visit_float(a.dtype(), "glu", [&](auto type) {
    using T = decltype(type);
    parallel_for(a.dim(0), row_grain(a.dim(1)), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        glu_row(f, row<T>(a, r), row<T>(b, r), row<T>(y, r), a.dim(1));
    });
  });
}

void glu_backward(Activation f, const Tensor& a, const Tensor& b, const Tensor& dy,
                  const Tensor& da, const Tensor& db) {
  check_glu_backward(a, b, dy, da, db);
  visit_float(a.dtype(), "glu_backward", [&](auto type) {
    using T = decltype(type);
    parallel_for(a.dim(0), row_grain(a.dim(1)), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        glu_backward_row(f, row<T>(a, r), row<T>(b, r), row<T>(dy, r), row<T>(da, r), row<T>(db, r),
                         a.dim(1));
    });
  });
}

}  // namespace parlo::cpu
