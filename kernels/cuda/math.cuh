// The unary functions and activations of kernels/elementwise.h and their slopes, in f32. Accurate
// library functions where an operand may be large; __expf only inside a sigmoid, where its relative
// error (2 ulp + |x| 2^-22) ends in a factor between 0 and 1.
#pragma once

#include "kernels/cuda/common.cuh"
#include "kernels/elementwise.h"

namespace parlo::cuda {

__device__ __forceinline__ float sigmoid(float x) {
  return __fdividef(1.0f, 1.0f + __expf(-x));
}

constexpr float kGeluScale = 0.7978845608028654f;  // sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;
constexpr float kQuickGelu = 1.702f;

template <Activation F>
__device__ __forceinline__ float activate(float x) {
  if constexpr (F == Activation::gelu_tanh) {
    // 0.5 (1 + tanh u) = sigmoid(2 u)
    return x * sigmoid(2 * kGeluScale * x * (1 + kGeluCubic * x * x));
  } else if constexpr (F == Activation::gelu_erf) {
    return 0.5f * x * (1 + erff(x * 0.7071067811865476f));
  } else if constexpr (F == Activation::quick_gelu) {
    return x * sigmoid(kQuickGelu * x);
  } else if constexpr (F == Activation::silu) {
    return x * sigmoid(x);
  } else {
    return x;
  }
}

template <Activation F>
__device__ __forceinline__ float activation_slope(float x) {
  if constexpr (F == Activation::gelu_tanh) {
    // Beyond 20 the slope is 0 or 1; x^2 would overflow to inf * 0. NaN stays.
    const float u = x > 20.0f ? 20.0f : (x < -20.0f ? -20.0f : x), square = u * u;
    const float s = sigmoid(2 * kGeluScale * u * (1 + kGeluCubic * square));
    return s + u * s * (1 - s) * 2 * kGeluScale * (1 + 3 * kGeluCubic * square);
  } else if constexpr (F == Activation::gelu_erf) {
    const float density = __expf(-0.5f * x * x) * kGeluScale * 0.5f;
    return 0.5f * (1 + erff(x * 0.7071067811865476f)) + (density == 0 ? 0 : x * density);
  } else if constexpr (F == Activation::quick_gelu) {
    const float s = sigmoid(kQuickGelu * x), rest = 1 - s;
    return s + (s * rest == 0 ? 0 : kQuickGelu * x * s * rest);
  } else if constexpr (F == Activation::silu) {
    const float s = sigmoid(x), rest = 1 - s;
    return s + (s * rest == 0 ? 0 : x * s * rest);
  } else {
    return 1;
  }
}

template <Unary F>
__device__ __forceinline__ float apply(float x) {
  if constexpr (F == Unary::neg) return -x;
  if constexpr (F == Unary::exp) return expf(x);
  if constexpr (F == Unary::log) return logf(x);
  if constexpr (F == Unary::sqrt) return sqrtf(x);
  if constexpr (F == Unary::rsqrt) return 1.0f / sqrtf(x);
  if constexpr (F == Unary::square) return x * x;
  if constexpr (F == Unary::abs) return fabsf(x);
  if constexpr (F == Unary::sin) return sinf(x);
  if constexpr (F == Unary::cos) return cosf(x);
  if constexpr (F == Unary::tanh) return tanhf(x);
  if constexpr (F == Unary::sigmoid) return 1.0f / (1.0f + expf(-x));
  if constexpr (F == Unary::relu) return x < 0 ? 0.0f : x;  // NaN stays
}

// The gradient at x with y = f(x).
template <Unary F>
__device__ __forceinline__ float apply_backward(float x, float y, float dy) {
  if constexpr (F == Unary::neg) return -dy;
  if constexpr (F == Unary::exp) return y * dy;
  if constexpr (F == Unary::log) return dy / x;
  if constexpr (F == Unary::sqrt) return dy * 0.5f / y;
  if constexpr (F == Unary::rsqrt) return -0.5f * y * y * y * dy;
  if constexpr (F == Unary::square) return 2.0f * x * dy;
  if constexpr (F == Unary::abs) return x > 0 ? dy : (x < 0 ? -dy : x * dy);
  if constexpr (F == Unary::sin) return cosf(x) * dy;
  if constexpr (F == Unary::cos) return -sinf(x) * dy;
  if constexpr (F == Unary::tanh) return (1.0f - y * y) * dy;
  if constexpr (F == Unary::sigmoid) return y * (1.0f - y) * dy;
  if constexpr (F == Unary::relu) return x <= 0 ? 0.0f : dy;
}

// Calls fn with the function as a constant: fn(std::integral_constant<Unary, ...>{}).
template <class Fn>
void visit_unary(Unary f, Fn&& fn) {
  const auto one = [&]<Unary... F>(std::integer_sequence<Unary, F...>) {
    ((f == F ? fn(std::integral_constant<Unary, F>{}) : void()), ...);
  };
  one(std::integer_sequence<Unary, Unary::neg, Unary::exp, Unary::log, Unary::sqrt, Unary::rsqrt,
                            Unary::square, Unary::abs, Unary::sin, Unary::cos, Unary::tanh,
                            Unary::sigmoid, Unary::relu>{});
}

template <class Fn>
void visit_activation(Activation f, Fn&& fn) {
  const auto one = [&]<Activation... F>(std::integer_sequence<Activation, F...>) {
    ((f == F ? fn(std::integral_constant<Activation, F>{}) : void()), ...);
  };
  one(std::integer_sequence<Activation, Activation::none, Activation::gelu_tanh,
                            Activation::gelu_erf, Activation::quick_gelu, Activation::silu>{});
}

}  // namespace parlo::cuda
