// Planted bugs of ordinary kernels: barriers, bounds, shuffles, races between blocks. Bug = 0 is
// the correct twin.
#pragma once
#include "tests/simt/support.cuh"

template <int Bug>
__global__ void sum_kernel(float* out, const float* in) {  // missing __syncthreads
  SMEM(float, part, [8]);
  float v = in[threadIdx.x];
  for (int o = 16; o > 0; o /= 2) v += __shfl_xor_sync(~0u, v, o);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = v;
  if (!Bug) __syncthreads();
  float s = 0.0f;
  for (int i = 0; i < 8; ++i) s += part[i];
  out[threadIdx.x] = s;
}

template <int Bug>
__global__ void reuse_kernel(float* out,
                             const float* in) {  // missing barrier before a tile is reused
  SMEM(float, tile, [256]);
  float s = 0.0f;
  for (int step = 0; step < 3; ++step) {
    tile[threadIdx.x] = in[threadIdx.x] + step;
    __syncthreads();
    s += tile[255 - threadIdx.x];
    if (!Bug) __syncthreads();
  }
  out[threadIdx.x] = s;
}

template <int Bug>
__global__ void warp_kernel(float* out, const float* in) {  // missing __syncwarp
  SMEM(float, tile, [256]);
  tile[threadIdx.x] = in[threadIdx.x];
  if (!Bug) __syncwarp();
  out[threadIdx.x] = tile[threadIdx.x ^ 1];
}

template <int Bug>
__global__ void shared_oob_kernel(float* out, const float* in) {
  SMEM(float, tile, [256]);
  tile[threadIdx.x + Bug] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <int Bug>
__global__ void dynamic_oob_kernel(float* out, const float* in) {
  SMEM_DYNAMIC(raw);
  float* tile = reinterpret_cast<float*>(raw);
  tile[threadIdx.x + Bug] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x];
}

template <int Bug>
__global__ void global_oob_kernel(float* out, const float* in) {
  out[threadIdx.x] = in[threadIdx.x + Bug];
}

template <int Bug>
__global__ void misaligned_kernel(float* out, const float* in) {
  const float4 v =
      *reinterpret_cast<const float4*>(in + (threadIdx.x < 63 ? threadIdx.x * 4 + Bug : 0));
  out[threadIdx.x] = v.x + v.w;
}

template <int Bug>
__global__ void uninit_kernel(float* out, const float* in) {
  SMEM(float, tile, [256]);
  if (threadIdx.x < 256 - Bug) tile[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] =
      tile[255 - threadIdx.x] > 0.5f ? 1.0f : 0.0f;  // a NaN would not show in the result
}

template <int Bug>
__global__ void divergent_kernel(float* out, const float* in) {
  if (!Bug || threadIdx.x < 200) __syncthreads();
  out[threadIdx.x] = in[threadIdx.x];
}

template <int Bug>
__global__ void two_barriers_kernel(float* out, const float* in) {
  if (!Bug) {
    __syncthreads();
  } else if (threadIdx.x < 128) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = in[threadIdx.x];
}

template <int Bug>
__global__ void shuffle_kernel(float* out, const float* in) {
  float v = in[threadIdx.x];
  if (!Bug || threadIdx.x % 32 < 16) v += __shfl_xor_sync(~0u, v, 16);
  out[threadIdx.x] = v;
}

template <int Bug>
__global__ void bar_arrive_kernel(float* out,
                                  const float* in) {  // the producers arrive for the wrong count
  SMEM(float, tile, [128]);
  const int warp = threadIdx.x / 32;
  if (warp < 4) {
    tile[threadIdx.x] = in[threadIdx.x];
    simt::bar_arrive(1, Bug ? 128 : 256);
    out[threadIdx.x] = 0.0f;
  } else {
    simt::bar_sync(1, 256);
    out[threadIdx.x] = tile[255 - threadIdx.x];
  }
}

template <int Bug>
__global__ void shared_atomic_kernel(float* out, const float* in) {  // read before all have added
  SMEM(int, count, [1]);
  if (threadIdx.x == 0) *count = 0;
  __syncthreads();
  atomicAdd(count, in[threadIdx.x] >= 0.0f ? 1 : 0);
  if (!Bug) __syncthreads();
  out[threadIdx.x] = float(*count);
}

template <int Bug>
__global__ void blocks_kernel(float* out, const float* in) {  // two blocks write the same elements
  out[(Bug ? 0 : blockIdx.x * 128) + threadIdx.x % 128] = in[blockIdx.x * 128 + threadIdx.x % 128];
}

template <int Bug>
__global__ void ldg_kernel(
    float* out, const float* in) {  // reads, with a cache hint, what another block writes
  const unsigned i = threadIdx.x % 32 * 4 + (Bug ? 1 - blockIdx.x : blockIdx.x) * 128;
  auto* mine = reinterpret_cast<float4*>(out + blockIdx.x * 128 + threadIdx.x % 32 * 4);
  if (threadIdx.x < 32) __stcs(mine, *reinterpret_cast<const float4*>(in + threadIdx.x * 4));
  const float4 other = __ldcg(reinterpret_cast<const float4*>(out + i));
  if (threadIdx.x < 32) __stcg(mine, other);
}

// The last block sums up.
template <int Bug>
__global__ void last_block_kernel(float* out, const float* in, float* partial, int* count) {
  SMEM(int, last, [1]);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = in[blockIdx.x];
    __threadfence();
    *last = Bug ? blockIdx.x == gridDim.x - 1 : atomicAdd(count, 1) == int(gridDim.x) - 1;
  }
  __syncthreads();
  if (!*last) return;
  float s = 0.0f;
  for (int i = 0; i < int(gridDim.x); ++i) s += partial[i];
  out[threadIdx.x] = s;
}

template <int Bug>
__global__ void banks_kernel(float* out, const float* in) {  // no error: only the lint speaks
  SMEM(float, tile, [32][Bug ? 32 : 33]);
  for (int i = threadIdx.x / 32; i < 32; i += 8) tile[threadIdx.x % 32][i] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = tile[threadIdx.x % 32][threadIdx.x / 32];
}
