// The one way a kernel starts. The first header of every .cu file: CUDA under nvcc, the simulated
// GPU of tests/simt under PARLO_SIMT; the same sources build for both.
//   SMEM(T, name, [N][M]);     static shared memory
//   SMEM_DYNAMIC(name);        unsigned char* to the launch's shared_bytes
//   launch({"name", grid, block, device, shared_bytes}, kernel<...>, args...);
#pragma once

#ifdef PARLO_SIMT
#include <simt.h>
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SMEM(T, name, ...) __shared__ T name __VA_ARGS__
#define SMEM_DYNAMIC(name) extern __shared__ __align__(1024) unsigned char name[]
#endif

#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>
#include <utility>

#include "tensor/cuda/runtime.h"

namespace parlo::cuda {

struct Launch {
  const char* name;  // in errors and profiles
  dim3 grid;         // an empty one launches nothing
  dim3 block;
  Device device;
  size_t shared_bytes = 0;  // dynamic
};

template <class... P, class... A>
void launch(const Launch& at, void (*kernel)(P...), A&&... args) {
  if (at.grid.x == 0 || at.grid.y == 0 || at.grid.z == 0) return;
  const cudaStream_t stream = stream_of(at.device);
#ifdef PARLO_SIMT
  struct Call {
    void (*kernel)(P...);
    std::tuple<std::remove_cv_t<P>...> args;
  };
  // On the heap: on the stack, g++ 12 (-ftrivial-auto-var-init) clears padding behind arrays of
  // over-aligned structures in the wrong place.
  const std::shared_ptr<const Call> call(new Call{kernel, {std::forward<A>(args)...}});
  const std::function<void()> run = [at, call] {
    Call mine = *call;
    simt::run(
        at.grid, at.block, at.shared_bytes,
        [](void* c) { std::apply(static_cast<Call*>(c)->kernel, static_cast<Call*>(c)->args); },
        &mine);
  };
  if (!simt::capture(stream, run)) run();
#else
  constexpr size_t kAlwaysAllowed = 48 << 10;
  if (at.shared_bytes > kAlwaysAllowed) {
    CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(at.shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = at.grid;
  config.blockDim = at.block;
  config.dynamicSmemBytes = at.shared_bytes;
  config.stream = stream;
  CUDA_CHECK(cudaLaunchKernelEx(&config, kernel, std::forward<A>(args)...));
#endif
  launched(at.name, stream);
}

// Blocks of `block` threads for n threads, at most `most` (kernels stride by the grid).
inline unsigned blocks_for(int64_t n, int64_t block, int64_t most = 1 << 16) {
  const int64_t blocks = (n + block - 1) / block;
  return static_cast<unsigned>(blocks < most ? blocks : most);
}

}  // namespace parlo::cuda
