// For tests of GPU kernels: the same bits, whatever the alignment.
#pragma once

#include "tests/gpu_support.h"
#include "tests/kernels/kernel_support.h"

namespace parlo::test {

// The same values one element off 16-byte alignment.
inline Tensor shifted(const Tensor& t) {
  const Tensor room = Tensor::zeros({t.numel() + 1}, t.dtype(), t.device());
  const Tensor part = room.slice(0, 1, t.numel() + 1).view(t.shape());
  part.copy_from(t);
  return part;
}

inline bool same_gpu_bits(const Tensor& a, const Tensor& b) {
  return same_bits(a.to(Device{}), b.to(Device{}));
}

}  // namespace parlo::test
