// An activation chosen at run time for values in registers: one branch for all of them.
#pragma once

#include "kernels/cuda/math.cuh"

namespace parlo::cuda {

template <int N>
__device__ __forceinline__ void activate_all(Activation f, float (&v)[N]) {
  const auto each = [&](auto which) {
#pragma unroll
    for (int i = 0; i < N; ++i) v[i] = activate<decltype(which)::value>(v[i]);
  };
  switch (f) {
    case Activation::none:
      break;
    case Activation::gelu_tanh:
      return each(std::integral_constant<Activation, Activation::gelu_tanh>{});
    case Activation::gelu_erf:
      return each(std::integral_constant<Activation, Activation::gelu_erf>{});
    case Activation::quick_gelu:
      return each(std::integral_constant<Activation, Activation::quick_gelu>{});
    case Activation::silu:
      return each(std::integral_constant<Activation, Activation::silu>{});
  }
}

}  // namespace parlo::cuda
