// The CUDA device language for a host compiler: what nvcc knows without a header and kernels use.
// Included by simt.h. Approximate functions (__expf, rsqrtf, ...) are computed in full precision:
// tests compare with tolerances.
#pragma once
#include "tests/simt/simt.h"

namespace simt {

template <class T>
T shuffle(uint32_t mask, T v, Shuffle mode, int src, int width, Loc loc) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  bits = shfl(mask, bits, mode, src, width, loc);
  std::memcpy(static_cast<void*>(&v), &bits, sizeof v);
  return v;
}
template <class T>
uint64_t bits_of(T v) {
  uint64_t bits = 0;
  std::memcpy(&bits, &v, sizeof v);
  return bits;
}
// Fibers never run at the same time, so load, compute, store is atomic; the builtins keep the
// plain-access hooks out. Integer atomics order blocks (counters, flags), floating-point ones
// (accumulation) do not.
template <class T, class F>
T read_modify_write(T* p, F f, Loc loc) {
  atomic_access(p, sizeof(T), std::is_integral_v<T>, loc);
  T old;
  __atomic_load(p, &old, __ATOMIC_RELAXED);
  T now = f(old);
  __atomic_store(p, &now, __ATOMIC_RELAXED);
  return old;
}

}  // namespace simt

// --- barriers, votes, shuffles ---
inline void __syncthreads(SIMT_HERE) {
  simt::sync_threads(false, "__syncthreads", loc);
}
inline int __syncthreads_count(int p, SIMT_HERE) {
  return simt::sync_threads(p, "__syncthreads_count", loc);
}
inline int __syncthreads_or(int p, SIMT_HERE) {
  return simt::sync_threads(p, "__syncthreads_or", loc) > 0;
}
inline int __syncthreads_and(int p, SIMT_HERE) {
  return simt::sync_threads(!p, "__syncthreads_and", loc) == 0;
}
inline void __syncwarp(uint32_t mask = ~0u, SIMT_HERE) {
  simt::syncwarp(mask, loc);
}
inline uint32_t __activemask() {
  return simt::active_lanes();
}
template <class T>
T __shfl_sync(uint32_t m, T v, int s, int w = 32, SIMT_HERE) {
  return simt::shuffle(m, v, simt::kIndex, s, w, loc);
}
template <class T>
T __shfl_up_sync(uint32_t m, T v, unsigned s, int w = 32, SIMT_HERE) {
  return simt::shuffle(m, v, simt::kUp, int(s), w, loc);
}
template <class T>
T __shfl_down_sync(uint32_t m, T v, unsigned s, int w = 32, SIMT_HERE) {
  return simt::shuffle(m, v, simt::kDown, int(s), w, loc);
}
template <class T>
T __shfl_xor_sync(uint32_t m, T v, int s, int w = 32, SIMT_HERE) {
  return simt::shuffle(m, v, simt::kXorLane, s, w, loc);
}
template <class T>
uint32_t __match_any_sync(uint32_t m, T v, SIMT_HERE) {
  return simt::match_any(m, simt::bits_of(v), loc);
}
inline uint32_t __ballot_sync(uint32_t m, int p, SIMT_HERE) {
  return simt::warp_reduce(m, p != 0, simt::kBallot, loc);
}
inline int __all_sync(uint32_t m, int p, SIMT_HERE) {
  return int(simt::warp_reduce(m, p != 0, simt::kAll, loc));
}
inline int __any_sync(uint32_t m, int p, SIMT_HERE) {
  return int(simt::warp_reduce(m, p != 0, simt::kAny, loc));
}
inline uint32_t __reduce_and_sync(uint32_t m, uint32_t v, SIMT_HERE) {
  return simt::warp_reduce(m, v, simt::kAnd, loc);
}
inline uint32_t __reduce_or_sync(uint32_t m, uint32_t v, SIMT_HERE) {
  return simt::warp_reduce(m, v, simt::kOr, loc);
}
inline uint32_t __reduce_xor_sync(uint32_t m, uint32_t v, SIMT_HERE) {
  return simt::warp_reduce(m, v, simt::kXor, loc);
}
template <class T>
T __reduce_add_sync(uint32_t m, T v, SIMT_HERE) {
  static_assert(sizeof(T) == 4 && std::is_integral_v<T>);
  return T(simt::warp_reduce(m, uint32_t(v), simt::kAdd, loc));
}
template <class T>
T __reduce_min_sync(uint32_t m, T v, SIMT_HERE) {
  static_assert(sizeof(T) == 4 && std::is_integral_v<T>);
  return T(
      simt::warp_reduce(m, uint32_t(v), std::is_signed_v<T> ? simt::kMinSigned : simt::kMin, loc));
}
template <class T>
T __reduce_max_sync(uint32_t m, T v, SIMT_HERE) {
  static_assert(sizeof(T) == 4 && std::is_integral_v<T>);
  return T(
      simt::warp_reduce(m, uint32_t(v), std::is_signed_v<T> ? simt::kMaxSigned : simt::kMax, loc));
}

// --- atomics ---
#define SIMT_ATOMIC(name, expression)                  \
  template <class T>                                   \
  T name(T* p, std::type_identity_t<T> v, SIMT_HERE) { \
    return simt::read_modify_write(                    \
        p, [&](T o) { return T(expression); }, loc);   \
  }
SIMT_ATOMIC(atomicAdd, o + v)
SIMT_ATOMIC(atomicSub, o - v)
SIMT_ATOMIC(atomicMax, o > v ? o : v)
SIMT_ATOMIC(atomicMin, o < v ? o : v)
SIMT_ATOMIC(atomicAnd, o& v)
SIMT_ATOMIC(atomicOr, o | v)
SIMT_ATOMIC(atomicXor, o ^ v)
#undef SIMT_ATOMIC
template <class T>
T atomicExch(T* p, std::type_identity_t<T> v, SIMT_HERE) {
  return simt::read_modify_write(
      p, [&](T) { return v; }, loc);
}
template <class T>
T atomicCAS(T* p, std::type_identity_t<T> compare, std::type_identity_t<T> v, SIMT_HERE) {
  return simt::read_modify_write(
      p, [&](T o) { return o == compare ? v : o; }, loc);
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

// --- memory with cache hints: plain accesses, so that the hooks of the race build see them ---
#define SIMT_LOAD(name) \
  template <class T>    \
  T name(const T* p) {  \
    const T v = *p;     \
    return v;           \
  }
#define SIMT_STORE(name)                       \
  template <class T>                           \
  void name(T* p, std::type_identity_t<T> v) { \
    *p = v;                                    \
  }
SIMT_LOAD(__ldg)
SIMT_LOAD(__ldcs)
SIMT_LOAD(__ldcg)
SIMT_LOAD(__ldca)
SIMT_LOAD(__ldlu)
SIMT_STORE(__stcs)
SIMT_STORE(__stcg)
SIMT_STORE(__stwb)
#undef SIMT_LOAD
#undef SIMT_STORE

// --- control ---
inline void __nanosleep(unsigned) {
  simt::yield();
}
inline long long clock64() {
  return (long long)simt::clock();
}
[[noreturn]] inline void __trap(SIMT_HERE) {
  simt::fail("__trap", loc);
}

// --- arithmetic ---
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline double rsqrt(double x) {
  return 1.0 / std::sqrt(x);
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __log2f(float x) {
  return std::log2(x);
}
inline float __powf(float x, float y) {
  return std::pow(x, y);
}
inline float __sinf(float x) {
  return std::sin(x);
}
inline float __cosf(float x) {
  return std::cos(x);
}
inline void __sincosf(float x, float* s, float* c) {
  *s = std::sin(x), *c = std::cos(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float __frcp_rn(float a) {
  return 1.0f / a;
}
inline float __fsqrt_rn(float a) {
  return std::sqrt(a);
}
inline float __frsqrt_rn(float a) {
  return float(1.0 / std::sqrt(double(a)));
}
inline float __fadd_rn(float a, float b) {
  return a + b;
}
inline float __fsub_rn(float a, float b) {
  return a - b;
}
inline float __fmul_rn(float a, float b) {
  return a * b;
}
inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline float __fmaf_rn(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float __saturatef(float x) {
  return x > 0.0f ? std::fmin(x, 1.0f) : 0.0f;
}
inline float sinpif(float x) {
  return float(std::sin(std::fmod(double(x), 2.0) * 3.14159265358979323846));
}
inline float cospif(float x) {
  return float(std::cos(std::fmod(double(x), 2.0) * 3.14159265358979323846));
}
inline void sincospif(float x, float* s, float* c) {
  *s = sinpif(x), *c = cospif(x);
}
using std::isfinite;
using std::isinf;
using std::isnan;

// Conversions saturate on the device, and NaN gives 0.
inline int simt_to_int(double x) {
  return std::isnan(x)        ? 0
         : x >= 2147483647.0  ? 2147483647
         : x <= -2147483648.0 ? int(-2147483647 - 1)
                              : int(x);
}
inline int __float2int_rn(float x) {
  return simt_to_int(std::nearbyint(double(x)));
}
inline int __float2int_rz(float x) {
  return simt_to_int(std::trunc(double(x)));
}
inline int __float2int_rd(float x) {
  return simt_to_int(std::floor(double(x)));
}
inline int __float2int_ru(float x) {
  return simt_to_int(std::ceil(double(x)));
}
inline float __int2float_rn(int x) {
  return float(x);
}
inline float __uint2float_rn(unsigned x) {
  return float(x);
}

// --- bits ---
inline uint32_t __float_as_uint(float f) {
  return std::bit_cast<uint32_t>(f);
}
inline float __uint_as_float(uint32_t u) {
  return std::bit_cast<float>(u);
}
inline int __float_as_int(float f) {
  return std::bit_cast<int>(f);
}
inline float __int_as_float(int i) {
  return std::bit_cast<float>(i);
}
inline long long __double_as_longlong(double d) {
  return std::bit_cast<long long>(d);
}
inline double __longlong_as_double(long long i) {
  return std::bit_cast<double>(i);
}
inline int __popc(uint32_t x) {
  return std::popcount(x);
}
inline int __popcll(unsigned long long x) {
  return std::popcount(x);
}
inline int __clz(int x) {
  return std::countl_zero(uint32_t(x));
}
inline int __clzll(long long x) {
  return std::countl_zero((unsigned long long)x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __ffsll(long long x) {
  return __builtin_ffsll(x);
}
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return uint32_t(uint64_t(a) * b >> 32);
}
inline int __mulhi(int a, int b) {
  return int(int64_t(a) * b >> 32);
}
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline uint32_t __brev(uint32_t x) {
  x = (x >> 1 & 0x55555555u) | (x & 0x55555555u) << 1;
  x = (x >> 2 & 0x33333333u) | (x & 0x33333333u) << 2;
  x = (x >> 4 & 0x0F0F0F0Fu) | (x & 0x0F0F0F0Fu) << 4;
  return __builtin_bswap32(x);
}
inline uint32_t __byte_perm(uint32_t x, uint32_t y, uint32_t selector) {
  const uint64_t bytes = uint64_t(y) << 32 | x;
  uint32_t out = 0;
  for (int i = 0; i < 4; ++i)
    out |= uint32_t(bytes >> (selector >> (i * 4) & 7) * 8 & 0xFF) << i * 8;
  return out;
}
inline uint32_t __funnelshift_l(uint32_t lo, uint32_t hi, uint32_t shift) {
  return uint32_t((uint64_t(hi) << 32 | lo) << (shift & 31) >> 32);
}
inline uint32_t __funnelshift_r(uint32_t lo, uint32_t hi, uint32_t shift) {
  return uint32_t((uint64_t(hi) << 32 | lo) >> (shift & 31));
}

// --- min and max of mixed arithmetic types; a NaN loses, as on the device ---
template <class A, class B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) constexpr std::common_type_t<A, B> max(
    A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) != T(a) || T(a) < T(b) ? T(b) : T(a);
}
template <class A, class B>
requires(std::is_arithmetic_v<A>&& std::is_arithmetic_v<B>) constexpr std::common_type_t<A, B> min(
    A a, B b) {
  using T = std::common_type_t<A, B>;
  return T(a) != T(a) || T(b) < T(a) ? T(b) : T(a);
}
