// TMA tensor maps: how a box of a strided bf16 tensor in global memory lands in shared memory.
// Source: CUDA Driver API, cuTensorMapEncodeTiled.
#pragma once

#ifdef PARLO_SIMT
#include <simt.h>
#else
#include <cuda.h>
#endif

#include <cstdint>

namespace parlo::cuda {

#ifdef PARLO_SIMT
using TensorMap = simt::TensorMap;
#else
using TensorMap = CUtensorMap;
#endif

constexpr int kTensorMapRank = 4;

// Dimension 0 is the innermost, of stride 1. `strides` are elements of dimensions 1, 2, 3; base and
// strides must be multiples of 16 bytes. A box's rows are at most 128 bytes (64 values) and lie in
// shared memory with the 128-byte swizzle; what is outside the tensor reads as zero.
struct TensorMapArgs {
  const void* base;
  uint64_t dims[kTensorMapRank];
  uint64_t strides[kTensorMapRank - 1];
  uint32_t box[kTensorMapRank];
};
// True where the hardware takes such a tensor.
bool fits_tensor_map(const TensorMapArgs& args);
TensorMap tensor_map(const TensorMapArgs& args);

}  // namespace parlo::cuda
