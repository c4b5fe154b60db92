// The twins of ptx.cuh and ptx_wgmma.cuh on the simulated GPU of tests/simt. `loc` is where the
// caller stands, for the reports.
#pragma once

#ifdef PARLO_SIMT
#include "tensor/cuda/launch.cuh"

#include <cmath>

#include "kernels/cuda/tensor_map.h"

namespace parlo::cuda::ptx {

inline uint32_t smem_u32(const void* p, SIMT_HERE) {
  return simt::smem_offset(p, loc);
}
inline float ex2(float x) {
  return std::exp2(x);
}

inline void follow(float) {}

template <int Bytes>
inline void cp_async(void* dst, const void* src, bool valid, SIMT_HERE) {
  simt::cp_async(dst, src, Bytes, valid ? Bytes : 0, loc);
}
inline void cp_async_commit() {
  simt::cp_async_commit();
}
template <int N>
inline void cp_async_wait() {
  simt::cp_async_wait(N);
}

inline void ldmatrix_x4(uint32_t (&r)[4], const void* row, SIMT_HERE) {
  simt::ldmatrix(r, 4, false, row, loc);
}
inline void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, SIMT_HERE) {
  simt::ldmatrix(r, 4, true, row, loc);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, SIMT_HERE) {
  const uint32_t b[2] = {b0, b1};
  simt::mma(d, a, b, d, simt::kBf16, loc);
}

inline void bar_sync(int id, int threads, SIMT_HERE) {
  simt::bar_sync(id, threads, loc);
}
inline void bar_arrive(int id, int threads, SIMT_HERE) {
  simt::bar_arrive(id, threads, loc);
}

inline void mbar_init(uint64_t* bar, uint32_t count, SIMT_HERE) {
  simt::mbar_init(bar, count, loc);
}
inline void fence_mbar_init() {}
inline void mbar_arrive(uint64_t* bar, SIMT_HERE) {
  simt::mbar_arrive(bar, loc);
}
inline void mbar_arrive_expect_tx(uint64_t* bar, uint32_t bytes, SIMT_HERE) {
  simt::mbar_arrive_expect_tx(bar, bytes, loc);
}
inline void mbar_wait(uint64_t* bar, uint32_t parity, SIMT_HERE) {
  simt::mbar_wait(bar, parity, loc);
}

inline void fence_proxy_async() {
  simt::fence_proxy_async();
}
inline void tma_load(void* dst, const TensorMap* map, uint64_t* bar, int c0, int c1, int c2, int c3,
                     SIMT_HERE) {
  simt::tma_load(dst, *map, bar, {c0, c1, c2, c3}, loc);
}

inline void wgmma_fence() {
  simt::wgmma_fence();
}
inline void wgmma_commit() {
  simt::wgmma_commit();
}
template <int N>
inline void wgmma_wait(SIMT_HERE) {
  simt::wgmma_wait(N, loc);
}
template <bool Turned = false, int N>
inline void wgmma(float (&d)[N], uint64_t a, uint64_t b, bool add, SIMT_HERE) {
  simt::wgmma(d, 2 * N, nullptr, a, b, add, simt::kBf16, false, Turned, loc);
}
template <int N>
inline void wgmma(float (&d)[N], const uint32_t (&a)[4], uint64_t b, bool add, SIMT_HERE) {
  simt::wgmma(d, 2 * N, a, 0, b, add, simt::kBf16, false, true, loc);
}

template <int N>
inline void setmaxnreg_inc() {}
template <int N>
inline void setmaxnreg_dec() {}

}  // namespace parlo::cuda::ptx
#endif
