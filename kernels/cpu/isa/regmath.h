// exp, log, tanh, sigmoid, erf of one register by polynomials (minimax fits on the ranges named),
// and the activations built from them. Relative error <= 3e-7 where the result is a normal number
// (tests/kernels/vecmath_test.cpp); parallel_for flushes the others to 0. NaN stays NaN, infinities
// give the limits.
#pragma once

#include "kernels/cpu/isa/reg.h"

namespace parlo::cpu {
namespace {

typedef int32_t RegI __attribute__((vector_size(sizeof(Reg))));

#ifdef PARLO_AVX512
// Where a or b is NaN the result is b.
inline Reg reg_min(Reg a, Reg b) {
  return _mm512_min_ps(a, b);
}
inline Reg reg_max(Reg a, Reg b) {
  return _mm512_max_ps(a, b);
}
// a < b ? yes : no, no where a or b is NaN.
inline Reg reg_if_less(Reg a, Reg b, Reg yes, Reg no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
}
inline Reg reg_round(Reg x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
// x - floor(x); 0 for infinities.
inline Reg reg_fraction(Reg x) {
  return _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}
// x * 2^floor(n), any n.
inline Reg reg_scale(Reg x, Reg n) {
  return _mm512_scalef_ps(x, n);
}
// What reg_scale takes.
inline Reg reg_scale_range(Reg n) {
  return n;
}
// 1 / x: one Newton step takes 2^-14 to 2^-24; a division takes three times as long. The step is
// skipped where it would turn the 0 or infinity of the estimate into NaN.
inline Reg reg_reciprocal(Reg x) {
  const Reg r = _mm512_rcp14_ps(x), rest = _mm512_fnmadd_ps(x, r, reg_set(1));
  return _mm512_mask_fmadd_ps(r, _mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q), rest, r);
}
#else
inline Reg reg_min(Reg a, Reg b) {
  return _mm256_min_ps(a, b);
}
inline Reg reg_max(Reg a, Reg b) {
  return _mm256_max_ps(a, b);
}
inline Reg reg_if_less(Reg a, Reg b, Reg yes, Reg no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
inline Reg reg_round(Reg x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline Reg reg_fraction(Reg x) {
  return x - _mm256_floor_ps(x);
}
// Two factors, because 2^n alone leaves the range of normal numbers before the product does.
inline Reg reg_scale(Reg x, Reg n) {
  const RegI whole = reinterpret_cast<RegI>(_mm256_cvtps_epi32(_mm256_floor_ps(n)));
  const RegI half = whole >> 1;
  const Reg first = reinterpret_cast<Reg>((half + 127) << 23);
  const Reg second = reinterpret_cast<Reg>((whole - half + 127) << 23);
  return x * first * second;
}
inline Reg reg_scale_range(Reg n) {
  return reg_max(reg_set(-150.0f), reg_min(reg_set(129.0f), n));
}
inline Reg reg_reciprocal(Reg x) {
  return reg_set(1) / x;
}
#endif

inline Reg reg_abs(Reg x) {
  return reinterpret_cast<Reg>(reinterpret_cast<RegI>(x) & 0x7fffffff);
}
inline Reg reg_copy_sign(Reg magnitude, Reg sign) {
  return reinterpret_cast<Reg>((reinterpret_cast<RegI>(magnitude) & 0x7fffffff) |
                               (reinterpret_cast<RegI>(sign) & static_cast<int32_t>(0x80000000)));
}

// c[0] + c[1] x + ...
template <int N>
inline Reg reg_poly(Reg x, const float (&c)[N]) {
  Reg sum = reg_set(c[N - 1]);
#pragma GCC unroll 8
  for (int i = N - 2; i >= 0; --i) sum = reg_fma(sum, x, reg_set(c[i]));
  return sum;
}

// 2^x: 1 + f P(f) on 0 <= f < 1, times 2^floor(x). Relative error <= 2e-7 of what x stands for.
inline Reg reg_exp2_of(Reg x, Reg fraction) {
  constexpr float kFit[] = {0.693151295f, 0.240164444f, 0.0557999127f, 0.00901702978f,
                            0.00186713017f};
  return reg_scale(reg_fma(fraction, reg_poly(fraction, kFit), reg_set(1)), x);
}
inline Reg reg_exp2(Reg x) {
  x = reg_scale_range(x);
  return reg_exp2_of(x, reg_fraction(x));
}

// 2^(x log2 e): what the product loses by rounding, and log2 e beyond its 24 bits, join the
// fraction.
inline Reg reg_exp(Reg x) {
  x = reg_max(reg_set(-104.0f), reg_min(reg_set(89.0f), x));
  const Reg log2e = reg_set(1.44269502f), t = x * log2e;
  const Reg lost = reg_fma(x, reg_set(1.92596299e-8f), reg_fma(x, log2e, -t));
  return reg_exp2_of(t, reg_fraction(t) + lost);
}

// log(m 2^e) = e ln 2 + log(1 + f), 1 + f = m in [sqrt(1/2), sqrt(2)]. Below 2^-126 x counts as 0.
inline Reg reg_log(Reg x) {
  constexpr float kFit[] = {0.333333313f, -0.250008225f, 0.200012267f, -0.166233569f,
                            0.142017618f, -0.131601945f, 0.127615497f, -0.0763442963f};
  const RegI bits = reinterpret_cast<RegI>(reg_abs(x));  // of a negative x the last line says NaN
  const RegI exponent = (bits - 0x3f3504f3) >> 23;
  const Reg f = reinterpret_cast<Reg>(bits - (exponent << 23)) - reg_set(1);
#ifdef PARLO_AVX512
  const Reg e = _mm512_cvtepi32_ps(reinterpret_cast<__m512i>(exponent));
#else
  const Reg e = _mm256_cvtepi32_ps(reinterpret_cast<__m256i>(exponent));
#endif
  const Reg square = f * f;
  Reg y = reg_fma(square * f, reg_poly(f, kFit), e * reg_set(-2.12194440e-4f));
  y = reg_fma(square, reg_set(-0.5f), y) + f;
  y = reg_fma(e, reg_set(0.693359375f), y);
  const Reg infinity = reg_set(__builtin_inff());
  y = reg_if_less(x, infinity, y, x);  // infinity and NaN
  y = reg_if_less(x, reg_set(1.17549435e-38f), -infinity, y);
  return reg_if_less(x, reg_zero(), reg_set(__builtin_nanf("")), y);
}

inline Reg reg_sigmoid(Reg x) {
  return reg_reciprocal(reg_exp(-x) + reg_set(1));
}

// x + x^3 P(x^2) below 0.625, 1 - 2 / (1 + exp(2 |x|)) above, where nothing cancels.
inline Reg reg_tanh(Reg x) {
  constexpr float kFit[] = {-0.333332747f, 0.133312747f, -0.0537251234f, 0.0205898173f,
                            -0.0056483075f};
  const Reg a = reg_min(reg_set(20.0f), reg_abs(x)), square = x * x;
  const Reg small = reg_fma(square * x, reg_poly(square, kFit), x);
  const Reg large = reg_set(1) - reg_set(2) * reg_reciprocal(reg_exp(a + a) + reg_set(1));
  return reg_if_less(a, reg_set(0.625f), small, reg_copy_sign(large, x));
}

// x P(x^2) below 1, 1 - exp(-Q(|x|)) above; beyond 4 the result rounds to 1.
inline Reg reg_erf(Reg x) {
  constexpr float kSmall[] = {1.12837911f,    -0.37612325f,   0.112801798f,
                              -0.0267113112f, 0.00491755083f, -0.00056314189f};
  constexpr float kLarge[] = {0.00249689911f, 1.11802936f,    0.653706491f,
                              0.0891410932f,  -0.0149386469f, 0.00117028458f};
  const Reg a = reg_min(reg_set(4.0f), reg_abs(x)), square = a * a;
  const Reg small = x * reg_poly(square, kSmall);
  const Reg large = reg_set(1) - reg_exp(-reg_poly(a, kLarge));
  return reg_if_less(a, reg_set(1), small, reg_copy_sign(large, x));
}

// sigmoid(x) where -x log2 e is given.
inline Reg reg_sigmoid2(Reg minus_x2) {
  return reg_reciprocal(reg_exp2(minus_x2) + reg_set(1));
}
// The factors of x in GELU's tanh form, 0.5 (1 + tanh(u)) = sigmoid(2 u), and in its quick form.
inline Reg reg_gelu_tanh_gate(Reg x) {
  return reg_sigmoid2(x * reg_fma(x * x, reg_set(-0.102943240f), reg_set(-2.30220820f)));
}
inline Reg reg_quick_gelu_gate(Reg x) {
  return reg_sigmoid2(x * reg_set(-2.45546696f));
}
inline Reg reg_gelu_tanh(Reg x) {
  return x * reg_gelu_tanh_gate(x);
}
inline Reg reg_gelu_erf(Reg x) {
  const Reg half = x * reg_set(0.5f);
  return reg_fma(half, reg_erf(x * reg_set(0.707106781f)), half);
}
inline Reg reg_quick_gelu(Reg x) {
  return x * reg_quick_gelu_gate(x);
}
inline Reg reg_silu(Reg x) {
  return x * reg_sigmoid(x);
}

}  // namespace
}  // namespace parlo::cpu
