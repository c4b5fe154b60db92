// The tail of a linear layer on one tile of the product, see GemmTail.
#pragma once

#include "kernels/cpu/isa/gemm_isa.h"
#include "kernels/cpu/isa/reg.h"
#include "kernels/cpu/isa/regmath.h"

namespace parlo::cpu {
namespace {

struct TailBlock {
  const GemmTail& tail;
  float* y;
  int64_t row;  // distance of rows
  int64_t at;   // of y's first element from the panel's
  int64_t rows, cols;
};

template <class Fn>
void tail_rows(const TailBlock& t, Fn activate) {
  const GemmTail& g = t.tail;
  for (int64_t i = 0; i < t.rows; ++i) {
    const int64_t at = t.at + i * t.row;
    float* y = t.y + i * t.row;
    for (int64_t j = 0; j < t.cols; j += kRegLanes) {
      const int64_t n = t.cols - j;
      Reg value = reg_load_upto(y + j, n);
      if (g.bias) value = value + reg_load_upto(g.bias + j, n);
      if (g.pre_activation) reg_store_upto(g.pre_activation + at + j, value, n);
      value = activate(value);
      if (g.residual) value = value + reg_load_upto(g.residual + at + j, n);
      reg_store_upto(y + j, value, n);
    }
  }
}

// The order of enum Activation; gemm.cpp one folder up asserts it.
[[gnu::noinline]] void gemm_tail(const TailBlock& t) {
  switch (t.tail.activation) {
    case 0:
      return tail_rows(t, [](Reg x) { return x; });
    case 1:
      return tail_rows(t, [](Reg x) { return reg_gelu_tanh(x); });
    case 2:
      return tail_rows(t, [](Reg x) { return reg_gelu_erf(x); });
    case 3:
      return tail_rows(t, [](Reg x) { return reg_quick_gelu(x); });
    default:
      return tail_rows(t, [](Reg x) { return reg_silu(x); });
  }
}

}  // namespace
}  // namespace parlo::cpu
