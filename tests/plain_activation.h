// The activations of kernels/matmul.h by their formulas, in f64.
#pragma once

#include <cmath>

#include "kernels/matmul.h"

namespace parlo::test {

inline double plain_activation(Activation f, double x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf:
      return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)));
    case Activation::quick_gelu:
      return x / (1 + std::exp(-1.702 * x));
    case Activation::silu:
      return x / (1 + std::exp(-x));
  }
  return x;
}

}  // namespace parlo::test
