#include "kernels/cuda/tensor_map.h"

#include "tensor/cuda/runtime.h"

namespace parlo::cuda {
namespace {

constexpr uint64_t kElement = 2;  // bytes of a bf16

}  // namespace

bool fits_tensor_map(const TensorMapArgs& args) {
  bool fits = reinterpret_cast<uintptr_t>(args.base) % 16 == 0;
  for (const uint64_t dim : args.dims) fits = fits && dim > 0 && dim <= uint64_t{1} << 32;
  for (const uint64_t stride : args.strides) {
    const uint64_t bytes = stride * kElement;
    fits = fits && bytes > 0 && bytes % 16 == 0 && bytes < uint64_t{1} << 40;
  }
  return fits;
}

TensorMap tensor_map(const TensorMapArgs& args) {
  uint64_t bytes[kTensorMapRank - 1];
  for (int i = 0; i < kTensorMapRank - 1; ++i) bytes[i] = args.strides[i] * kElement;
#ifdef PARLO_SIMT
  return simt::tensor_map(args.base, kElement, kTensorMapRank, args.dims, bytes, args.box,
                          simt::kSwizzle128);
#else
  // Asked of the runtime, so that nothing links against libcuda, which only a driver brings.
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found{};
    const char* name = "cuTensorMapEncodeTiled";
#if CUDART_VERSION >= 12050
    CUDA_CHECK(cudaGetDriverEntryPointByVersion(name, &function, 12000, cudaEnableDefault, &found));
#else
    CUDA_CHECK(cudaGetDriverEntryPoint(name, &function, cudaEnableDefault, &found));
#endif
    CHECK(found == cudaDriverEntryPointSuccess && function,
          "cuTensorMapEncodeTiled: not in this driver; CUDA 12 or later is needed");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  TensorMap map;
  cuuint64_t dims[kTensorMapRank], strides[kTensorMapRank - 1];
  cuuint32_t box[kTensorMapRank], steps[kTensorMapRank];
  for (int i = 0; i < kTensorMapRank; ++i) {
    dims[i] = args.dims[i], box[i] = args.box[i], steps[i] = 1;
    if (i > 0) strides[i - 1] = bytes[i - 1];
  }
  const CUresult result =
      encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kTensorMapRank, const_cast<void*>(args.base),
             dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
             CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  CHECK(result == CUDA_SUCCESS, "cuTensorMapEncodeTiled: error ", static_cast<int>(result));
  return map;
#endif
}

}  // namespace parlo::cuda
