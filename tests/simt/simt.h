// Runs CUDA kernels on the CPU, one fiber per CUDA thread (tests only; see README.md). A kernel
// source includes this header in place of cuda_runtime.h when PARLO_SIMT is defined. Here: the
// macros that replace __shared__, launches, and one function in namespace simt for every PTX
// instruction that kernels use through their wrappers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <source_location>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>

// host_defines.h expands the CUDA keywords to nothing for a host compiler. That is right for
// __global__ and __device__, and silently wrong for __shared__, so using it directly becomes a
// compile error.
#undef __shared__
#define __shared__ use_SMEM_or_SMEM_DYNAMIC_instead_of___shared__
#undef __launch_bounds__
#define __launch_bounds__(...)
// SMEM(float, tile, [32][33]); SMEM_DYNAMIC(bytes);
#define SMEM(T, name, ...) auto& name = ::simt::static_shared<T __VA_ARGS__, decltype([] {})>()
#define SMEM_DYNAMIC(name) unsigned char* const name = ::simt::dynamic_shared()
// The last parameter of a PTX wrapper: where its caller stands, for the reports.
#define SIMT_HERE ::simt::Loc loc = ::simt::Loc::current()

inline dim3 gridDim, blockDim;
inline uint3 threadIdx, blockIdx;  // rewritten at each fiber switch
constexpr int warpSize = 32;

namespace simt {

using Loc = std::source_location;

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Schedules: seed 0 runs the lowest ready thread, 1 the highest, even seeds a random one, odd seeds
// give every warp a random priority (warps run far ahead of each other). Asynchronous operations
// complete at issue (0), as late as the program allows (1), or at random times (others).
// PARLO_SIMT_SEED and PARLO_SIMT_LINT set seed and lint at start-up.
struct Options {
  uint64_t seed = 0;
  bool racecheck = true, lint = false;
};
// unhooked: shared bytes that were written where the race detector did not see it; must stay 0
// (README.md, rule 8).
struct Stats {
  uint64_t switches = 0, blocks = 0, threads = 0, accesses = 0, unhooked = 0;
  double ms = 0;
};
Options& options();
Stats& stats();
// Race build: bank conflicts and uncoalesced accesses per source line since the last call.
void print_lint();

// Runs fn(ctx) on every thread of the grid and returns when all have finished. Host threads take
// turns. Throws Error.
void run(dim3 grid, dim3 block, size_t dynamic_smem, void (*fn)(void*), void* ctx);
// True: the stream is being captured and `work` was recorded, to be run by cudaGraphLaunch.
bool capture(cudaStream_t stream, std::function<void()> work);
[[noreturn]] void fail(const std::string& what, Loc loc = Loc::current());

unsigned char* dynamic_shared();
int new_shared_id();
void* shared_slot(int id, size_t bytes, size_t align);
template <class T, class Tag>
T& static_shared() {
  static const int id = new_shared_id();
  return *static_cast<T*>(shared_slot(id, sizeof(T), alignof(T)));
}
uint32_t smem_offset(const void* p, SIMT_HERE);  // cvta.to.shared

// Device memory: 256-byte aligned heap blocks (ASan guards both ends), filled with NaN bytes.
void* device_alloc(size_t bytes);
void device_free(void* p);

// --- threads, warps, barriers ---
enum Reduction { kBallot, kAll, kAny, kAdd, kMin, kMax, kMinSigned, kMaxSigned, kAnd, kOr, kXor };
uint32_t warp_reduce(uint32_t mask, uint32_t v, Reduction op, SIMT_HERE);  // votes and redux
enum Shuffle { kIndex, kUp, kDown, kXorLane };
uint64_t shfl(uint32_t mask, uint64_t bits, Shuffle mode, int src, int width, SIMT_HERE);
uint32_t match_any(uint32_t mask, uint64_t bits, SIMT_HERE);
void syncwarp(uint32_t mask, SIMT_HERE);
uint32_t active_lanes();
// __syncthreads and its reductions: the number of threads with a true predicate.
int sync_threads(bool predicate, const char* name, SIMT_HERE);
void bar_sync(int id, int threads, SIMT_HERE);
void bar_arrive(int id, int threads, SIMT_HERE);
void yield(SIMT_HERE);
uint64_t clock();
// Tells the race detector of an atomic operation; those that order (integers) also pass on what its
// blocks did before.
void atomic_access(void* p, uint32_t bytes, bool orders, SIMT_HERE);

// --- cp.async (bytes: 4, 8 or 16; the rest after src_bytes becomes zero) ---
void cp_async(void* dst, const void* src, int bytes, int src_bytes, SIMT_HERE);
void cp_async_commit();
void cp_async_wait(int pending_groups);
// cp.async.mbarrier.arrive.noinc: arrives once this thread's earlier cp.async have landed.
void cp_async_mbar_arrive(void* bar, SIMT_HERE);

// --- mbarrier (uint64_t in shared memory) ---
void mbar_init(void* bar, uint32_t count, SIMT_HERE);
void mbar_inval(void* bar, SIMT_HERE);
void mbar_arrive(void* bar, SIMT_HERE);
void mbar_arrive_expect_tx(void* bar, uint32_t tx_bytes, SIMT_HERE);
void mbar_expect_tx(void* bar, uint32_t tx_bytes, SIMT_HERE);
bool mbar_try_wait(void* bar, uint32_t parity,
                   SIMT_HERE);  // test_wait too: false lets other threads run first
void mbar_wait(void* bar, uint32_t parity, SIMT_HERE);  // until the phase has completed
void fence_proxy_async();

// --- TMA. Dimension 0 is the innermost; strides are in bytes, of dimensions 1 .. rank - 1; out of
// bounds reads give 0. ---
enum Swizzle { kSwizzleNone, kSwizzle32, kSwizzle64, kSwizzle128 };
struct alignas(64) TensorMap {
  unsigned char* base;
  uint64_t dims[5], strides[5];  // strides[0] is the element size
  uint32_t box[5], rank, elem;
  Swizzle swizzle;
};
// Throws Error where cuTensorMapEncodeTiled would refuse. elem: 2 or 4 bytes.
TensorMap tensor_map(const void* base, uint32_t elem, int rank, const uint64_t* dims,
                     const uint64_t* strides, const uint32_t* box, Swizzle swizzle);
using Coords = std::initializer_list<int>;
void tma_load(void* dst, const TensorMap& map, void* bar, Coords at, SIMT_HERE);
void tma_store(const TensorMap& map, const void* src, Coords at, SIMT_HERE);
void bulk_load(void* dst, const void* src, uint32_t bytes, void* bar,
               SIMT_HERE);  // cp.async.bulk, global to shared
void bulk_store(void* dst, const void* src, uint32_t bytes, SIMT_HERE);  // and back
void bulk_commit();
void bulk_wait(int pending_groups,
               bool read);  // read: wait_group.read, the sources may be overwritten

// --- tensor cores ---
enum Format { kBf16, kF16, kTf32 };
// n 8x8 matrices of 16-bit elements; `row` of lane i is row i % 8 of matrix i / 8.
void ldmatrix(uint32_t* out, int n, bool trans, const void* row, SIMT_HERE);
void stmatrix(void* row, int n, bool trans, const uint32_t* in, SIMT_HERE);
// d = a b + c: m16n8k16 for kBf16 and kF16, m16n8k8 for kTf32 (f32 bits, the low 13 ignored).
void mma(float* d, const uint32_t* a, const uint32_t* b, const float* c, Format format, SIMT_HERE);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending_groups, SIMT_HERE);
// m64nNk16, n = 8 .. 256 in steps of 8, d has n / 2 floats a thread. A comes from desc_a, or from
// the four registers at a_regs when that is not null. trans_a, trans_b: the operand is MN-major in
// shared memory (tnspA, tnspB).
void wgmma(float* d, int n, const uint32_t* a_regs, uint64_t desc_a, uint64_t desc_b, bool scale_d,
           Format format, bool trans_a, bool trans_b, SIMT_HERE);

// --- instructions without an effect on values ---
inline void setmaxnreg(int) {}
inline void griddepcontrol_wait() {}
inline void griddepcontrol_launch_dependents() {}

}  // namespace simt

#include "tests/simt/intrinsics.h"
