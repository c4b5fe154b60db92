// Element-wise maps of one tensor: unary functions, activations, scalings, finiteness. The loops
// here are for f64; f32 goes to the tables of isa/elementwise.cpp.
#include "kernels/elementwise.h"

#include <atomic>
#include <cmath>

#include "kernels/cpu/activation.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/elementwise_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

double apply(Unary f, double x) {
  switch (f) {
    case Unary::neg:
      return -x;
    case Unary::exp:
      return std::exp(x);
    case Unary::log:
      return std::log(x);
    case Unary::sqrt:
      return std::sqrt(x);
    case Unary::rsqrt:
      return 1.0 / std::sqrt(x);
    case Unary::square:
      return x * x;
    case Unary::abs:
      return std::abs(x);
    case Unary::sin:
      return std::sin(x);
    case Unary::cos:
      return std::cos(x);
    case Unary::tanh:
      return std::tanh(x);
    case Unary::sigmoid:
      return 1.0 / (1.0 + std::exp(-x));
    case Unary::relu:
      return x < 0 ? 0.0 : x;  // NaN stays
  }
  return x;
}

// The gradient at x with y = f(x).
double apply_backward(Unary f, double x, double y, double dy) {
  switch (f) {
    case Unary::neg:
      return -dy;
    case Unary::exp:
      return y * dy;
    case Unary::log:
      return dy / x;
    case Unary::sqrt:
      return dy * 0.5 / y;
    case Unary::rsqrt:
      return -0.5 * y * y * y * dy;
    case Unary::square:
      return 2.0 * x * dy;
    case Unary::abs:
      return x > 0 ? dy : (x < 0 ? -dy : x * dy);
    case Unary::sin:
      return std::cos(x) * dy;
    case Unary::cos:
      return -std::sin(x) * dy;
    case Unary::tanh:
      return (1.0 - y * y) * dy;
    case Unary::sigmoid:
      return y * (1.0 - y) * dy;
    case Unary::relu:
      return x <= 0 ? 0.0 : dy;
  }
  return dy;
}

// Calls fn(i) for every element, in parallel chunks.
template <class Fn>
void for_elements(int64_t n, Fn&& fn) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(i);
  });
}

// Calls fn(begin, count) for chunks.
template <class Fn>
void for_chunks(int64_t n, Fn&& fn) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) { fn(begin, end - begin); });
}

static_assert(static_cast<int>(Unary::relu) == 11 && static_cast<int>(Activation::silu) == 4 &&
                  static_cast<int>(Binary::max) == 5,
              "the tables of isa/elementwise.cpp follow the enums");

const ElementwiseIsa& table() {
  return PARLO_ISA_TABLE(elementwise);
}

// Calls with_f32 or with_f64 with pointers to the data of every tensor.
template <class F32, class F64, class... Tensors>
void by_dtype(std::string_view function, F32&& with_f32, F64&& with_f64, const Tensor& first,
              const Tensors&... rest) {
  visit_float(first.dtype(), function, [&](auto type) {
    using T = decltype(type);
    if constexpr (std::is_same_v<T, float>) {
      with_f32(first.data<T>(), rest.template data<T>()...);
    } else {
      with_f64(first.data<T>(), rest.template data<T>()...);
    }
  });
}

}  // namespace

void unary(Unary f, const Tensor& x, const Tensor& y) {
  check_operand("unary", "x", x, x.dtype(), x.numel());
  check_output("unary", "y", y, x.dtype(), x.numel());
  const int64_t n = x.numel();
  by_dtype(
      "unary",
      [&](const float* from, float* to) {
        const auto kernel = table().unary[static_cast<int>(f)];
        for_chunks(n, [&](int64_t i, int64_t count) { kernel(from + i, to + i, count); });
      },
      [&](const double* from, double* to) {
        for_elements(n, [&](int64_t i) { to[i] = apply(f, from[i]); });
      },
      x, y);
}

void unary_backward(Unary f, const Tensor& x, const Tensor& y, const Tensor& dy, const Tensor& dx) {
  check_operand("unary_backward", "x", x, x.dtype(), x.numel());
  check_operand("unary_backward", "y", y, x.dtype(), x.numel());
  check_operand("unary_backward", "dy", dy, x.dtype(), x.numel());
  check_output("unary_backward", "dx", dx, x.dtype(), x.numel());
  const int64_t n = x.numel();
  by_dtype(
      "unary_backward",
      [&](const float* px, const float* py, const float* pdy, float* to) {
        const auto kernel = table().unary_backward[static_cast<int>(f)];
        for_chunks(
            n, [&](int64_t i, int64_t count) { kernel(px + i, py + i, pdy + i, to + i, count); });
      },
      [&](const double* px, const double* py, const double* pdy, double* to) {
        for_elements(n, [&](int64_t i) { to[i] = apply_backward(f, px[i], py[i], pdy[i]); });
      },
      x, y, dy, dx);
}

void activation(Activation f, const Tensor& x, const Tensor& y) {
  check_operand("activation", "x", x, x.dtype(), x.numel());
  check_output("activation", "y", y, x.dtype(), x.numel());
  const int64_t n = x.numel();
  by_dtype(
      "activation",
      [&](const float* from, float* to) {
        const auto kernel = table().activation[static_cast<int>(f)];
        for_chunks(n, [&](int64_t i, int64_t count) { kernel(from + i, to + i, count); });
      },
      [&](const double* from, double* to) {
        for_elements(n, [&](int64_t i) { to[i] = activate(f, from[i]); });
      },
      x, y);
}

void activation_backward(Activation f, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  check_operand("activation_backward", "x", x, x.dtype(), x.numel());
  check_operand("activation_backward", "dy", dy, x.dtype(), x.numel());
  check_output("activation_backward", "dx", dx, x.dtype(), x.numel());
  const int64_t n = x.numel();
  by_dtype(
      "activation_backward",
      [&](const float* px, const float* pdy, float* to) {
        const auto kernel = table().activation_backward[static_cast<int>(f)];
        for_chunks(n, [&](int64_t i, int64_t count) { kernel(px + i, pdy + i, to + i, count); });
      },
      [&](const double* px, const double* pdy, double* to) {
        for_elements(n, [&](int64_t i) { to[i] = activation_slope(f, px[i]) * pdy[i]; });
      },
      x, dy, dx);
}

void scale_shift(double alpha, double c, const Tensor& x, const Tensor& y) {
  check_operand("scale_shift", "x", x, x.dtype(), x.numel());
  check_output("scale_shift", "y", y, x.dtype(), x.numel());
  const int64_t n = x.numel();
  by_dtype(
      "scale_shift",
      [&](const float* from, float* to) {
        const float a = static_cast<float>(alpha), b = static_cast<float>(c);
        for_chunks(n, [&](int64_t i, int64_t count) {
          table().scale_shift(a, b, from + i, to + i, count);
        });
      },
      [&](const double* from, double* to) {
        for_elements(n, [&](int64_t i) { to[i] = alpha * from[i] + c; });
      },
      x, y);
}

void axpby(double alpha, const Tensor& x, double beta, const Tensor& y) {
  check_operand("axpby", "x", x, x.dtype(), x.numel());
  check_output("axpby", "y", y, x.dtype(), x.numel());
  // beta 0 does not read y, which may be uninitialised.
  if (beta == 0) return scale_shift(alpha, 0, x, y);
  const int64_t n = x.numel();
  by_dtype(
      "axpby",
      [&](const float* from, float* to) {
        const float a = static_cast<float>(alpha), b = static_cast<float>(beta);
        for_chunks(n,
                   [&](int64_t i, int64_t count) { table().axpby(a, from + i, b, to + i, count); });
      },
      [&](const double* from, double* to) {
        for_elements(n, [&](int64_t i) { to[i] = alpha * from[i] + beta * to[i]; });
      },
      x, y);
}

bool all_finite(const Tensor& x) {
  CHECK(x.defined(), "all_finite: x is missing");
  if (!is_floating(x.dtype())) return true;
  if (x.dtype() != DType::f32 && x.dtype() != DType::f64) return all_finite(x.to(DType::f32));
  const Tensor t = x.contiguous();
  std::atomic<bool> finite{true};
  visit_float(t.dtype(), "all_finite", [&](auto type) {
    using T = decltype(type);
    const T* values = t.data<T>();
    parallel_for(t.numel(), kGrain, [&](int64_t begin, int64_t end) {
      if (!finite.load(std::memory_order_relaxed)) return;
      // 0 * v is 0 for a finite v and NaN otherwise; the sum keeps the NaN.
      T lanes[16] = {};
      int64_t i = begin;
      for (; i + 16 <= end; i += 16)
        for (int k = 0; k < 16; ++k) lanes[k] += T{0} * values[i + k];
      for (; i < end; ++i) lanes[0] += T{0} * values[i];
      for (T lane : lanes)
        if (!(lane == T{0})) finite.store(false, std::memory_order_relaxed);
    });
  });
  return finite;
}

}  // namespace parlo::cpu
