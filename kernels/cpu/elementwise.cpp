// Element-wise maps of one tensor: unary functions, activations, scalings, finiteness.
#include "kernels/elementwise.h"

#include <atomic>
#include <cmath>
#include <numbers>

#include "kernels/cpu/checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
T apply(Unary f, T x) {
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
      return T{1} / std::sqrt(x);
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
      return T{1} / (T{1} + std::exp(-x));
    case Unary::relu:
      return x < 0 ? T{0} : x;  // NaN stays
  }
  return x;
}

// The gradient at x with y = f(x).
template <class T>
T apply_backward(Unary f, T x, T y, T dy) {
  switch (f) {
    case Unary::neg:
      return -dy;
    case Unary::exp:
      return y * dy;
    case Unary::log:
      return dy / x;
    case Unary::sqrt:
      return dy * T{0.5} / y;
    case Unary::rsqrt:
      return T{-0.5} * y * y * y * dy;
    case Unary::square:
      return T{2} * x * dy;
    case Unary::abs:
      return x > 0 ? dy : (x < 0 ? -dy : x * dy);
    case Unary::sin:
      return std::cos(x) * dy;
    case Unary::cos:
      return -std::sin(x) * dy;
    case Unary::tanh:
      return (T{1} - y * y) * dy;
    case Unary::sigmoid:
      return y * (T{1} - y) * dy;
    case Unary::relu:
      return x <= 0 ? T{0} : dy;
  }
  return dy;
}

template <class T>
T sigmoid(T x) {
  return T{1} / (T{1} + std::exp(-x));
}

template <class T>
inline constexpr T kGeluScale = T(std::numbers::sqrt2* std::numbers::inv_sqrtpi);  // sqrt(2 / pi)
template <class T>
inline constexpr T kGeluCubic = T(0.044715);
template <class T>
inline constexpr T kQuick = T(1.702);

template <class T>
T apply(Activation f, T x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      // 0.5 (1 + tanh u) = sigmoid(2 u)
      return x * sigmoid(2 * kGeluScale<T> * (x + kGeluCubic<T> * x * x * x));
    case Activation::gelu_erf:
      return x * T{0.5} * std::erfc(-x / std::numbers::sqrt2_v<T>);
    case Activation::quick_gelu:
      return x * sigmoid(kQuick<T> * x);
    case Activation::silu:
      return x * sigmoid(x);
  }
  return x;
}

template <class T>
T derivative(Activation f, T x) {
  switch (f) {
    case Activation::none:
      return T{1};
    case Activation::gelu_tanh: {
      // Beyond 20 the derivative is 0 or 1; x^2 would overflow to inf * 0. NaN stays.
      x = x > 20 ? T{20} : (x < -20 ? T{-20} : x);
      const T s = sigmoid(2 * kGeluScale<T> * (x + kGeluCubic<T> * x * x * x));
      const T du = 2 * kGeluScale<T> * (1 + 3 * kGeluCubic<T> * x * x);
      return s + x * s * (1 - s) * du;
    }
    case Activation::gelu_erf: {
      const T density = std::exp(T{-0.5} * x * x) * kGeluScale<T> * T{0.5};
      return T{0.5} * std::erfc(-x / std::numbers::sqrt2_v<T>) + x * density;
    }
    case Activation::quick_gelu: {
      const T s = sigmoid(kQuick<T> * x);
      return s + kQuick<T> * x * s * (1 - s);
    }
    case Activation::silu: {
      const T s = sigmoid(x);
      return s + x * s * (1 - s);
    }
  }
  return T{1};
}

// Calls fn(i) for every element, in parallel chunks.
template <class Fn>
void for_elements(int64_t n, Fn&& fn) {
  parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(i);
  });
}

}  // namespace

void unary(Unary f, const Tensor& x, const Tensor& y) {
  check_operand("unary", "x", x, x.dtype(), x.numel());
  check_output("unary", "y", y, x.dtype(), x.numel());
  visit_float(x.dtype(), "unary", [&](auto type) {
    using T = decltype(type);
    const T* from = x.data<T>();
    T* to = y.data<T>();
    for_elements(x.numel(), [&](int64_t i) { to[i] = apply(f, from[i]); });
  });
}

void unary_backward(Unary f, const Tensor& x, const Tensor& y, const Tensor& dy, const Tensor& dx) {
  check_operand("unary_backward", "x", x, x.dtype(), x.numel());
  check_operand("unary_backward", "y", y, x.dtype(), x.numel());
  check_operand("unary_backward", "dy", dy, x.dtype(), x.numel());
  check_output("unary_backward", "dx", dx, x.dtype(), x.numel());
  visit_float(x.dtype(), "unary_backward", [&](auto type) {
    using T = decltype(type);
    const T *px = x.data<T>(), *py = y.data<T>(), *pdy = dy.data<T>();
    T* to = dx.data<T>();
    for_elements(x.numel(), [&](int64_t i) { to[i] = apply_backward(f, px[i], py[i], pdy[i]); });
  });
}

void activation(Activation f, const Tensor& x, const Tensor& y) {
  check_operand("activation", "x", x, x.dtype(), x.numel());
  check_output("activation", "y", y, x.dtype(), x.numel());
  visit_float(x.dtype(), "activation", [&](auto type) {
    using T = decltype(type);
    const T* from = x.data<T>();
    T* to = y.data<T>();
    for_elements(x.numel(), [&](int64_t i) { to[i] = apply(f, from[i]); });
  });
}

void activation_backward(Activation f, const Tensor& x, const Tensor& dy, const Tensor& dx) {
  check_operand("activation_backward", "x", x, x.dtype(), x.numel());
  check_operand("activation_backward", "dy", dy, x.dtype(), x.numel());
  check_output("activation_backward", "dx", dx, x.dtype(), x.numel());
  visit_float(x.dtype(), "activation_backward", [&](auto type) {
    using T = decltype(type);
    const T *from = x.data<T>(), *pdy = dy.data<T>();
    T* to = dx.data<T>();
    for_elements(x.numel(), [&](int64_t i) { to[i] = derivative(f, from[i]) * pdy[i]; });
  });
}

void axpby(double alpha, const Tensor& x, double beta, const Tensor& y) {
  check_operand("axpby", "x", x, x.dtype(), x.numel());
  check_output("axpby", "y", y, x.dtype(), x.numel());
  visit_float(x.dtype(), "axpby", [&](auto type) {
    using T = decltype(type);
    const T a = static_cast<T>(alpha), b = static_cast<T>(beta);
    const T* from = x.data<T>();
    T* to = y.data<T>();
    // beta 0 does not read y, which may be uninitialised.
    if (beta == 0) {
      for_elements(x.numel(), [&](int64_t i) { to[i] = a * from[i]; });
    } else {
      for_elements(x.numel(), [&](int64_t i) { to[i] = a * from[i] + b * to[i]; });
    }
  });
}

void scale_shift(double alpha, double c, const Tensor& x, const Tensor& y) {
  check_operand("scale_shift", "x", x, x.dtype(), x.numel());
  check_output("scale_shift", "y", y, x.dtype(), x.numel());
  visit_float(x.dtype(), "scale_shift", [&](auto type) {
    using T = decltype(type);
    const T a = static_cast<T>(alpha), b = static_cast<T>(c);
    const T* from = x.data<T>();
    T* to = y.data<T>();
    for_elements(x.numel(), [&](int64_t i) { to[i] = a * from[i] + b; });
  });
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
