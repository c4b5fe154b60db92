// The functions of regmath.h on the 16 floats of a Vec.
#pragma once

#include "kernels/cpu/isa/regmath.h"
#include "kernels/cpu/isa/vec.h"

namespace parlo::cpu {
namespace {

template <class Fn>
inline Vec each_register(Vec x, Fn fn) {
#ifdef PARLO_AVX512
  return reinterpret_cast<Vec>(fn(reinterpret_cast<Reg>(x)));
#else
  Reg half[2];
  __builtin_memcpy(half, &x, sizeof x);
  half[0] = fn(half[0]), half[1] = fn(half[1]);
  __builtin_memcpy(&x, half, sizeof x);
  return x;
#endif
}

[[maybe_unused]] inline Vec vexp(Vec x) {
  return each_register(x, [](Reg r) { return reg_exp(r); });
}
[[maybe_unused]] inline Vec vlog(Vec x) {
  return each_register(x, [](Reg r) { return reg_log(r); });
}
[[maybe_unused]] inline Vec vsigmoid(Vec x) {
  return each_register(x, [](Reg r) { return reg_sigmoid(r); });
}
[[maybe_unused]] inline Vec vtanh(Vec x) {
  return each_register(x, [](Reg r) { return reg_tanh(r); });
}
[[maybe_unused]] inline Vec verf(Vec x) {
  return each_register(x, [](Reg r) { return reg_erf(r); });
}

}  // namespace
}  // namespace parlo::cpu
