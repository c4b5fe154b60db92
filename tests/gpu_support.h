// For tests of the GPU backend: the device they run on, and references from the CPU.
#pragma once

#include <string>
#include <vector>

#include "tensor/device_memory.h"
#include "tests/support.h"

namespace parlo::test {

inline const Device kGpu{Device::Kind::cuda, 0};

inline Tensor on_gpu(const Tensor& t) {
  return t.defined() ? t.to(kGpu) : t;
}

// Random values on the GPU; the same rounded values in f64 on the CPU are the reference's input.
struct GpuInput {
  Tensor gpu, reference;
  GpuInput(const Shape& shape, uint32_t seed, DType dtype, double scale = 1) {
    const Tensor cpu = random_tensor(shape, seed, dtype, scale);
    gpu = on_gpu(cpu), reference = cpu.to(DType::f64);
  }
};

// NaN everywhere: what a kernel does not write is seen.
inline Tensor gpu_output(const Shape& shape, DType dtype = DType::f32) {
  return Tensor::full(shape, is_floating(dtype) ? std::nan("") : -1.0, dtype, kGpu);
}

inline const std::vector<DType> kGpuTypes = {DType::f32, DType::bf16};

}  // namespace parlo::test
