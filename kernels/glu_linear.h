// A linear layer of 2 F outputs and the gated linear unit (glu.h) of its halves in one, the first
// two thirds of a SwiGLU MLP (Llama):
//   h[rows, 2 F] = x[rows, K] w[2 F, K]' + bias + low rank,  y[rows, F] = f(h[:, :F]) * h[:, F:]
// so w stacks the gate's rows on those of "up". Contiguous operands; dtypes and sums as linear's
// (matmul.h): a row's result is the same bits alone and inside any batch, `halves` kept or not.
#pragma once

#include "kernels/matmul.h"

namespace parlo {

struct GluLinearArgs {
  Tensor bias;                        // [2 F], optional
  Tensor halves;                      // output h [rows, 2 F], optional: glu_backward reads them
  const LowRank* low_rank = nullptr;  // of all rows, with b [2 F, r]
  std::span<const LowRankRows> low_rank_rows;  // instead: as LinearArgs has them
};

namespace cpu {

void glu_linear(Activation f, const Tensor& x, const Tensor& w, const Tensor& y,
                const GluLinearArgs& args = {});

}  // namespace cpu

// The same on a GPU: kernels/cuda. On Hopper in bf16 with F a multiple of 8 it is one launch (after
// the low rank's x a'), and f takes h in f32; elsewhere h rounded to its dtype.
namespace cuda {
decltype(cpu::glu_linear) glu_linear;
}  // namespace cuda
}  // namespace parlo
