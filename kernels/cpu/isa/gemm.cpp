#include "kernels/cpu/isa/gemm_tile.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regmath.h"

namespace parlo::cpu {
namespace {

template <class Fn>
void tail_rows(const GemmTail& g, Fn activate) {
  for (int64_t i = 0; i < g.rows; ++i) {
    const int64_t at = i * g.row;
    for (int64_t j = 0; j < g.cols; j += kRegLanes) {
      const int64_t n = g.cols - j;
      Reg value = reg_load_upto(g.y + at + j, n);
      if (g.bias) value = value + reg_load_upto(g.bias + j, n);
      if (g.pre_activation) reg_store_upto(g.pre_activation + at + j, value, n);
      value = activate(value);
      if (g.residual) value = value + reg_load_upto(g.residual + at + j, n);
      reg_store_upto(g.y + at + j, value, n);
    }
  }
}

// The order of enum Activation; gemm.cpp one folder up asserts it.
void gemm_tail(const GemmTail& g) {
  switch (g.activation) {
    case 0:
      return tail_rows(g, [](Reg x) { return x; });
    case 1:
      return tail_rows(g, [](Reg x) { return reg_gelu_tanh(x); });
    case 2:
      return tail_rows(g, [](Reg x) { return reg_gelu_erf(x); });
    case 3:
      return tail_rows(g, [](Reg x) { return reg_quick_gelu(x); });
    default:
      return tail_rows(g, [](Reg x) { return reg_silu(x); });
  }
}

}  // namespace

extern const GemmIsa PARLO_ISA_NAME(gemm);
const GemmIsa PARLO_ISA_NAME(gemm) = {
    kRegLanes, kTileVecs, kTileRows, gemm_panel, pack_a, pack_panel<float>, pack_panel<uint16_t>,
    gemm_tail};

}  // namespace parlo::cpu
