// Planted bugs of asynchronous copies: cp.async, mbarriers, bulk and TMA stores, proxies. Bug = 0
// is the correct twin.
#pragma once
#include "tests/simt/support.cuh"

template <int Bug>
__global__ void cp_async_kernel(float* out, const float* in) {  // no wait before the barrier
  SMEM(float4, tile, [64]);
  if (threadIdx.x < 64) simt::cp_async(&tile[threadIdx.x], in + threadIdx.x * 4, 16, 16);
  simt::cp_async_commit();
  if (!Bug) simt::cp_async_wait(0);
  __syncthreads();
  out[threadIdx.x] = reinterpret_cast<float*>(tile)[255 - threadIdx.x];
  if (Bug) simt::cp_async_wait(0);
}

template <int Bug>
__global__ void cp_async_mbar_kernel(float* out,
                                     const float* in) {  // plain arrival instead of the copies' own
  SMEM(float4, tile, [64]);
  SMEM(uint64_t, bar, [1]);
  if (threadIdx.x == 0) simt::mbar_init(bar, 64);
  __syncthreads();
  if (threadIdx.x < 64) {
    simt::cp_async(&tile[threadIdx.x], in + threadIdx.x * 4, 16, 16);
    if (Bug) {
      simt::mbar_arrive(bar);
    } else {
      simt::cp_async_mbar_arrive(bar);
    }
  }
  simt::mbar_wait(bar, 0);
  out[threadIdx.x] = reinterpret_cast<float*>(tile)[255 - threadIdx.x];
  simt::cp_async_commit();
  simt::cp_async_wait(0);
}

template <int Bug>
__global__ void proxy_kernel(float* out,
                             const float* in) {  // generic stores, then wgmma, without the fence
  SMEM_DYNAMIC(raw);
  auto* v = reinterpret_cast<__nv_bfloat16*>(raw);
  for (int i = threadIdx.x; i < 64 * 64; i += 256) v[i] = __float2bfloat16(in[i % 256]);
  if (!Bug) simt::fence_proxy_async();
  __syncthreads();
  float acc[32] = {};
  const uint32_t a[4] = {};
  if (threadIdx.x < 128) {
    simt::wgmma_fence();
    simt::wgmma(acc, 64, a, 0, descriptor(raw, 0, 8192, 1024, simt::kSwizzle128), true, simt::kBf16,
                false, true);
    simt::wgmma_commit();
    simt::wgmma_wait(0);
  }
  out[threadIdx.x] = acc[0];
}

template <int Bug>
__global__ void mbar_init_kernel(float* out,
                                 const float* in) {  // barrier used before the init is visible
  SMEM(uint64_t, bar, [1]);
  if (threadIdx.x == 0) simt::mbar_init(bar, 256);
  if (!Bug) __syncthreads();
  simt::mbar_arrive(bar);
  simt::mbar_wait(bar, 0);
  out[threadIdx.x] = in[threadIdx.x];
}

template <int Bug>
__global__ void bulk_tx_kernel(float* out,
                               const float* in) {  // fewer bytes expected than are loaded
  SMEM_DYNAMIC(raw);
  SMEM(uint64_t, bar, [1]);
  if (threadIdx.x == 0) {
    simt::mbar_init(bar, 1);
    simt::mbar_arrive_expect_tx(bar, Bug ? 512 : 1024);
    simt::bulk_load(raw, in, 1024, bar);
  }
  __syncthreads();
  simt::mbar_wait(bar, 0);
  out[threadIdx.x] = reinterpret_cast<float*>(raw)[threadIdx.x];
}

// A block writes its tile, one thread stores it, and the tile is used again.
template <int Bug>
__device__ void store_tiles(float* out, const float* in, unsigned char* raw) {
  float* tile = reinterpret_cast<float*>(raw);
  for (int step = 0; step < 8; ++step) {
    if (step && threadIdx.x == 0 && Bug != 1) simt::bulk_wait(0, true);
    __syncthreads();
    if (threadIdx.x < 32) tile[threadIdx.x] = in[step * 32 + threadIdx.x];
    if (Bug != 3) simt::fence_proxy_async();
    __syncthreads();
    if (threadIdx.x == 0) {
      simt::bulk_store(out + step * 32, tile, 128);
      simt::bulk_commit();
    }
  }
  if (threadIdx.x == 0 && Bug != 2) simt::bulk_wait(0, true);
}
template <int Bug>
__global__ void store_reuse_kernel(float* out,
                                   const float* in) {  // source overwritten before wait_group.read
  store_tiles<Bug>(out, in, simt::dynamic_shared());
}
template <int Bug>
__global__ void store_exit_kernel(
    float* out, const float* in) {  // the block's memory goes before wait_group.read
  store_tiles<Bug * 2>(out, in, simt::dynamic_shared());
}
template <int Bug>
__global__ void store_proxy_kernel(float* out,
                                   const float* in) {  // missing fence.proxy.async before the store
  store_tiles<Bug * 3>(out, in, simt::dynamic_shared());
}

template <int Bug>
__global__ void stmatrix_kernel(float* out,
                                const float* in) {  // missing __syncwarp between stmatrix and loads
  SMEM(uint4, rows, [8][32]);
  uint4* mine = rows[threadIdx.x / 32];
  const uint32_t v = __float_as_uint(in[threadIdx.x]);
  const uint32_t regs[4] = {v, v, v, v};
  simt::stmatrix(&mine[threadIdx.x % 32], 4, false, regs);
  if (!Bug) __syncwarp();
  out[threadIdx.x] = __uint_as_float(mine[(threadIdx.x + 1) % 32].x);
}
