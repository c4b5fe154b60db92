#include "kernels/cuda/index_check.h"

#include "kernels/cuda/common.cuh"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;
using Position = unsigned long long;  // what atomicMin knows

__global__ void __launch_bounds__(kThreads)
    bad_index_kernel(const int64_t* index, int64_t n, int64_t limit, bool ignores, int64_t ignored,
                     Position* first) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const int64_t value = index[i];
    if (ignores && value == ignored) continue;
    if (value < 0 || value >= limit) atomicMin(first, static_cast<Position>(i));
  }
}

}  // namespace

std::optional<BadIndex> find_bad_index(const Tensor& index, int64_t limit,
                                       std::optional<int64_t> ignored) {
  const int64_t n = index.numel();
  if (n == 0) return {};
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  CUDA_CHECK(cudaStreamIsCapturing(stream_of(index.device()), &status));
  if (status != cudaStreamCaptureStatusNone) return {};
  const Tensor first = Tensor::full({1}, static_cast<double>(n), DType::i64, index.device());
  launch({"bad_index", blocks_for(n, kThreads, 1024), kThreads, index.device()}, bad_index_kernel,
         pointer<const int64_t>(index), n, limit, ignored.has_value(), ignored.value_or(0),
         reinterpret_cast<Position*>(pointer<int64_t>(first)));
  const auto at = static_cast<int64_t>(first.item());
  if (at == n) return {};
  const Tensor bad = index.view({n}).slice(0, at, at + 1).to(Device{});
  return BadIndex{at, *bad.data<int64_t>()};
}

}  // namespace parlo::cuda
