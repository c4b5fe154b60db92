// The activations of kernels/elementwise.h and their slopes in f64.
#pragma once

#include <cmath>
#include <numbers>

#include "kernels/matmul.h"

namespace parlo::cpu {

inline double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

constexpr double kGeluScale = std::numbers::sqrt2 * std::numbers::inv_sqrtpi;  // sqrt(2 / pi)
constexpr double kGeluCubic = 0.044715;
constexpr double kQuick = 1.702;

inline double activate(Activation f, double x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      // 0.5 (1 + tanh u) = sigmoid(2 u)
      return x * sigmoid(2 * kGeluScale * (x + kGeluCubic * x * x * x));
    case Activation::gelu_erf:
      return x * 0.5 * std::erfc(-x / std::numbers::sqrt2);
    case Activation::quick_gelu:
      return x * sigmoid(kQuick * x);
    case Activation::silu:
      return x * sigmoid(x);
  }
  return x;
}

inline double activation_slope(Activation f, double x) {
  switch (f) {
    case Activation::none:
      return 1.0;
    case Activation::gelu_tanh: {
      // Beyond 20 the derivative is 0 or 1; x^2 would overflow to inf * 0. NaN stays.
      x = x > 20 ? 20.0 : (x < -20 ? -20.0 : x);
      const double s = sigmoid(2 * kGeluScale * (x + kGeluCubic * x * x * x));
      const double du = 2 * kGeluScale * (1 + 3 * kGeluCubic * x * x);
      return s + x * s * (1 - s) * du;
    }
    case Activation::gelu_erf: {
      const double density = std::exp(-0.5 * x * x) * kGeluScale * 0.5;
      return 0.5 * std::erfc(-x / std::numbers::sqrt2) + x * density;
    }
    case Activation::quick_gelu: {
      const double s = sigmoid(kQuick * x);
      return s + kQuick * x * s * (1 - s);
    }
    case Activation::silu: {
      const double s = sigmoid(x);
      return s + x * s * (1 - s);
    }
  }
  return 1.0;
}

}  // namespace parlo::cpu
