// Sine and cosine of one register.
#pragma once

#include "kernels/cpu/isa/regmath.h"

namespace parlo::cpu {
namespace {

struct SinCos {
  Reg sin, cos;
};

// Turned by n quarter turns: angle = r + n pi / 2, |r| <= pi / 4 (a little more does no harm).
// Minimax polynomials of degree 7 and 8, error below 1e-7.
inline SinCos reg_sincos_quarter(Reg r, Reg n) {
  constexpr float kSin[] = {-1.6666654611e-1f, 8.3321608736e-3f, -1.9515295891e-4f};
  constexpr float kCos[] = {4.166664568298827e-2f, -1.388731625493765e-3f, 2.443315711809948e-5f};
  const Reg square = r * r;
  const Reg s = reg_fma(square * r, reg_poly(square, kSin), r);
  const Reg c =
      reg_fma(square * square, reg_poly(square, kCos), reg_fma(square, reg_set(-0.5f), reg_set(1)));
#ifdef PARLO_AVX512
  const RegI turns = reinterpret_cast<RegI>(_mm512_cvtps_epi32(n));
#else
  const RegI turns = reinterpret_cast<RegI>(_mm256_cvtps_epi32(n));
#endif
  const RegI odd = -(turns & 1);  // all ones where sine and cosine change places
  const RegI is = reinterpret_cast<RegI>(s), ic = reinterpret_cast<RegI>(c);
  const RegI sin = (odd & ic) | (~odd & is), cos = (odd & is) | (~odd & ic);
  return {reinterpret_cast<Reg>(sin ^ ((turns & 2) << 30)),
          reinterpret_cast<Reg>(cos ^ (((turns + 1) & 2) << 30))};
}

// |x| <= 1e6: pi / 2 in three parts, whose first difference is exact.
inline SinCos reg_sincos(Reg x) {
  const Reg n = reg_round(x * reg_set(0.636619772f));
  Reg r = reg_fma(n, reg_set(-1.57079637f), x);
  r = reg_fma(n, reg_set(4.37113883e-8f), r);
  r = reg_fma(n, reg_set(1.71512451e-15f), r);
  return reg_sincos_quarter(r, n);
}

}  // namespace
}  // namespace parlo::cpu
