// Our matrix product for Hopper (sm_90a) in bf16, with the epilogues that cuBLASLt lacks: every
// activation with its pre-activation kept, a residual as well, low-rank terms of rows, and gated
// linear units.
#pragma once

#include "kernels/matmul.h"

namespace parlo::cuda {

// y[rows, N] = activation(x[rows, K] w' + bias + low rank) * gate + residual, where row r of a
// segment has the low-rank term scale * down[r - first] b'. A row's result has the same bits alone
// and in any batch, next to any segments whose b is finite. y may be the residual itself.
struct HopperProduct {
  Tensor x, w, y;       // contiguous, like all that follow
  bool turned = false;  // w is [K, N] instead of [N, K], and every b [r, N] instead of [N, r]
  // low_rank is not read; low_rank_rows are sorted and apart, with `down` there and `a` not read.
  LinearArgs args;
  // w is [2 F, K] and y [rows, F] = activation(the first F columns) * the others, as glu_linear.h
  // has it; pre_activation has all of them. Not with turned, a gate or a residual.
  bool glu = false;
};

// False where the device, a dtype, a size or an alignment is not for this kernel. It does not
// depend on the number of rows below 2^31.
bool takes_gemm_sm90(const HopperProduct& p);
// For what it takes.
void gemm_sm90(const HopperProduct& p);

}  // namespace parlo::cuda
