// The only inline PTX: copies to shared memory, tensor cores, barriers of Hopper's asynchronous
// units (those of wgmma in ptx_wgmma.cuh, which only this file includes). Each wrapper has a twin
// of the same signature for the simulated GPU (ptx_simt.cuh). Source: PTX ISA, sections named at
// each group. Pointers to shared memory are generic ones.
#pragma once

#include "tensor/cuda/launch.cuh"

#include "kernels/cuda/tensor_map.h"

#ifdef PARLO_SIMT
#include "kernels/cuda/ptx_simt.cuh"
#else
#include "kernels/cuda/ptx_wgmma.cuh"

namespace parlo::cuda::ptx {

__device__ __forceinline__ uint32_t smem_u32(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 2^x, relative error 2^-22; results below the normal range become 0.
__device__ __forceinline__ float ex2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// A point in the program that comes after x, which is never negative. The assembler moves waits up
// past arithmetic, which then waits as well, but not past a fence that might be executed. (A trap
// in its place made nvcc 13.0 ignore setmaxnreg.)
__device__ __forceinline__ void follow(float x) {
  asm volatile("{\n .reg .pred p;\n setp.lt.f32 p, %0, 0f00000000;\n @p membar.cta;\n}" ::"f"(x)
               : "memory");
}

// --- cp.async: Bytes (4, 8 or 16, and both addresses multiples of it) from global to shared memory
// past the registers; zeros, and src is not read, where valid is false. ---
template <int Bytes>
__device__ __forceinline__ void cp_async(void* dst, const void* src, bool valid) {
  static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
  if constexpr (Bytes == 16) {  // .cg: L2 only
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem_u32(dst)), "l"(src),
                 "r"(valid ? 16 : 0)
                 : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(smem_u32(dst)), "l"(src),
                 "r"(valid ? Bytes : 0), "n"(Bytes)
                 : "memory");
  }
}
// Closes a group of this thread's copies.
__device__ __forceinline__ void cp_async_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Until all but the N latest groups of this thread are there; others see them after a barrier.
template <int N>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// --- mma.sync, one warp. Lane l holds of a 16x8 result rows l/4 (d[0], d[1]) and l/4 + 8 (d[2],
// d[3]), columns l%4*2 and the next. ---
// Four 8x8 matrices of 16-bit values; `row` of lane l is row l%8 (16 bytes) of matrix l/8.
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_u32(row))
               : "memory");
}
// Each matrix transposed.
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(smem_u32(row))
               : "memory");
}
// d[16, 8] += a[16, 16] b[16, 8].
__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
      "{%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- named barriers: id 1 .. 15 (0 is __syncthreads), `threads` of the block take part ---
__device__ __forceinline__ void bar_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void bar_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// --- mbarrier (sm_90): a phase ends when `count` arrivals and all expected bytes are in ---
__device__ __forceinline__ void mbar_init(uint64_t* bar, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(smem_u32(bar)), "r"(count)
               : "memory");
}
// After the inits, before the barrier that shows them to the other threads.
__device__ __forceinline__ void fence_mbar_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void mbar_arrive(uint64_t* bar) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(smem_u32(bar)) : "memory");
}
__device__ __forceinline__ void mbar_arrive_expect_tx(uint64_t* bar, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(smem_u32(bar)),
               "r"(bytes)
               : "memory");
}
// Until the phase of that parity has ended; the first phase has parity 0, so a wait for parity 1
// on a fresh barrier returns at once.
__device__ __forceinline__ void mbar_wait(uint64_t* bar, uint32_t parity) {
  asm volatile(
      "{\n .reg .pred p;\nwait_%=:\n"
      " mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n @!p bra wait_%=;\n}" ::"r"(
          smem_u32(bar)),
      "r"(parity)
      : "memory");
}

// --- TMA (sm_90). The generic proxy's writes to shared memory reach the asynchronous units only
// after fence_proxy_async. ---
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
// A box whose first element has these coordinates; reports its bytes to the barrier.
__device__ __forceinline__ void tma_load(void* dst, const TensorMap* map, uint64_t* bar, int c0,
                                         int c1, int c2, int c3) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2];" ::"r"(smem_u32(dst)),
      "l"(map), "r"(smem_u32(bar)), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
      : "memory");
}

// --- setmaxnreg (sm_90a): registers of each thread of this warpgroup from now on: up to, down to
// N. ---
template <int N>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

}  // namespace parlo::cuda::ptx
#endif

namespace parlo::cuda::ptx {

// Descriptor of an operand of wgmma that lies with the 128-byte swizzle, as TMA leaves it, at
// shared address `at` of a tile that starts on a multiple of 1024. Rows of 128 bytes; `stride`
// bytes from 8 rows to the next 8. Only N-major operands wider than 64 use `lead`: bytes from 64
// columns to the next 64. (PTX ISA, "Matrix descriptor".)
__device__ __forceinline__ uint64_t descriptor(uint32_t at, uint32_t lead, uint32_t stride) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  const auto field = [](uint32_t bytes) { return static_cast<uint64_t>((bytes & 0x3FFFF) >> 4); };
  return field(at) | field(lead) << 16 | field(stride) << 32 | kSwizzle128;
}

}  // namespace parlo::cuda::ptx
