// Tensors of heads [B, T, H, D] with unit stride in D.
#pragma once

#include "kernels/cuda/map.cuh"

namespace parlo::cuda {

// Whether 16 bytes at every multiple of 16 bytes of a head are aligned.
inline bool heads_aligned(const Tensor& t) {
  bool aligned = is_aligned(t.raw());
  for (int i = 0; i < 3; ++i) {
    const int64_t bytes = t.strides()[i] * static_cast<int64_t>(dtype_size(t.dtype()));
    aligned = aligned && (t.dim(i) <= 1 || bytes % 16 == 0);
  }
  return aligned;
}

}  // namespace parlo::cuda
