// Loops over rows of floats one register at a time.
// A loop body is written once for whole registers and for the rest of a row; both do the same
// operations lane by lane, so an element's bits do not depend on where it stands. Multiply-adds
// are explicit (reg_fma) for the same reason.
#pragma once

#include "kernels/cpu/isa/reg.h"

namespace parlo::cpu {
namespace {

#ifdef PARLO_AVX512
inline Reg reg_sqrt(Reg x) {
  return _mm512_sqrt_ps(x);
}
inline Reg reg_if_nan(Reg x, Reg yes, Reg no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), yes);
}
inline Reg reg_zero_rest(Reg x, int64_t n) {
  return _mm512_maskz_mov_ps(reg_mask(n), x);
}
inline Reg reg_load_or(const float* p, int64_t n, Reg rest) {
  return _mm512_mask_loadu_ps(rest, reg_mask(n), p);
}
// Of each block of four lanes: a0 b0 a1 b1, and a2 b2 a3 b3.
inline Reg reg_interleave_low(Reg a, Reg b) {
  return _mm512_unpacklo_ps(a, b);
}
inline Reg reg_interleave_high(Reg a, Reg b) {
  return _mm512_unpackhi_ps(a, b);
}
// a0 a1 b0 b1, and a2 a3 b2 b3.
inline Reg reg_interleave_low2(Reg a, Reg b) {
  return _mm512_shuffle_ps(a, b, 0x44);
}
inline Reg reg_interleave_high2(Reg a, Reg b) {
  return _mm512_shuffle_ps(a, b, 0xee);
}
// Blocks 0, 2 of a, then of b; and 1, 3.
inline Reg reg_even_blocks(Reg a, Reg b) {
  return _mm512_shuffle_f32x4(a, b, 0x88);
}
inline Reg reg_odd_blocks(Reg a, Reg b) {
  return _mm512_shuffle_f32x4(a, b, 0xdd);
}
#else
inline Reg reg_sqrt(Reg x) {
  return _mm256_sqrt_ps(x);
}
inline Reg reg_if_nan(Reg x, Reg yes, Reg no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
inline Reg reg_zero_rest(Reg x, int64_t n) {
  return _mm256_and_ps(x, _mm256_castsi256_ps(reg_mask(n)));
}
inline Reg reg_load_or(const float* p, int64_t n, Reg rest) {
  return _mm256_blendv_ps(rest, reg_load_part(p, n), _mm256_castsi256_ps(reg_mask(n)));
}
inline Reg reg_interleave_low(Reg a, Reg b) {
  return _mm256_unpacklo_ps(a, b);
}
inline Reg reg_interleave_high(Reg a, Reg b) {
  return _mm256_unpackhi_ps(a, b);
}
inline Reg reg_interleave_low2(Reg a, Reg b) {
  return _mm256_shuffle_ps(a, b, 0x44);
}
inline Reg reg_interleave_high2(Reg a, Reg b) {
  return _mm256_shuffle_ps(a, b, 0xee);
}
inline Reg reg_even_blocks(Reg a, Reg b) {
  return _mm256_permute2f128_ps(a, b, 0x20);
}
inline Reg reg_odd_blocks(Reg a, Reg b) {
  return _mm256_permute2f128_ps(a, b, 0x31);
}
#endif

// A whole register of a row, and the last part of one.
struct WholeReg {
  Reg load(const float* p) const { return reg_load(p); }
  Reg load_or(const float* p, Reg) const { return reg_load(p); }
  Reg zero_rest(Reg x) const { return x; }
  void store(float* p, Reg x) const { reg_store(p, x); }
};
struct PartReg {
  int64_t n;
  Reg load(const float* p) const { return reg_load_part(p, n); }
  Reg load_or(const float* p, Reg rest) const { return reg_load_or(p, n, rest); }
  Reg zero_rest(Reg x) const { return reg_zero_rest(x, n); }
  void store(float* p, Reg x) const { reg_store_part(p, x, n); }
};

// body(i, part) for i = 0, kRegLanes, ... below n.
template <class Body>
inline void for_regs(int64_t n, Body body) {
  int64_t i = 0;
#pragma GCC unroll 4
  for (; i + kRegLanes <= n; i += kRegLanes) body(i, WholeReg{});
  if (i < n) body(i, PartReg{n - i});
}

// Sum over a row: sum = term(sum, i, part), in four registers that hide the latency of adding.
// What is left is the sum of the lanes.
template <class Term>
inline Reg sum_row_lanes(int64_t n, Term term) {
  constexpr int64_t L = kRegLanes;
  Reg a = reg_zero(), b = a, c = a, d = a;
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L) {
    a = term(a, i, WholeReg{});
    b = term(b, i + L, WholeReg{});
    c = term(c, i + 2 * L, WholeReg{});
    d = term(d, i + 3 * L, WholeReg{});
  }
  for (; i + L <= n; i += L) a = term(a, i, WholeReg{});
  if (i < n) b = term(b, i, PartReg{n - i});
  return (a + b) + (c + d);
}
template <class Term>
inline float sum_row(int64_t n, Term term) {
  return reg_sum(sum_row_lanes(n, term));
}

// One register of rows, each reduced to the lanes of one register, becomes the register of their
// results. Halving two rows at a time takes a third of the instructions of one row after another;
// every row is combined in the same order, so its bits do not depend on its neighbours.
template <class Combine>
inline Reg reduce_lanes(Reg* rows, Combine combine) {
  for (int k = 0; k < kRegLanes; k += 2)
    rows[k / 2] = combine(reg_interleave_low(rows[k], rows[k + 1]),
                          reg_interleave_high(rows[k], rows[k + 1]));
  for (int k = 0; k < kRegLanes / 2; k += 2)
    rows[k / 2] = combine(reg_interleave_low2(rows[k], rows[k + 1]),
                          reg_interleave_high2(rows[k], rows[k + 1]));
  for (int n = kRegLanes / 4; n > 1; n /= 2)
    for (int k = 0; k < n; k += 2)
      rows[k / 2] =
          combine(reg_even_blocks(rows[k], rows[k + 1]), reg_odd_blocks(rows[k], rows[k + 1]));
  return rows[0];
}
inline Reg sum_lanes(Reg* rows) {
  return reduce_lanes(rows, [](Reg a, Reg b) { return a + b; });
}

// A sum of squares in f64 lanes.
struct SquareSum {
#ifdef PARLO_AVX512
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();
  void add(Reg x) {
    const __m512d a = _mm512_cvtps_pd(_mm512_castps512_ps256(x));
    const __m512d b = _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1));
    low = _mm512_fmadd_pd(a, a, low);
    high = _mm512_fmadd_pd(b, b, high);
  }
  double total() const {
    return _mm512_reduce_add_pd(_mm512_add_pd(low, high));
  }
#else
  __m256d low = _mm256_setzero_pd(), high = _mm256_setzero_pd();
  void add(Reg x) {
    const __m256d a = _mm256_cvtps_pd(_mm256_castps256_ps128(x));
    const __m256d b = _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1));
    low = _mm256_fmadd_pd(a, a, low);
    high = _mm256_fmadd_pd(b, b, high);
  }
  double total() const {
    const __m256d sum = _mm256_add_pd(low, high);
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(sum), _mm256_extractf128_pd(sum, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
  }
#endif
};

}  // namespace
}  // namespace parlo::cpu
