// linear for the few rows of a decode step: bound by the bytes of w, which stream past once for up
// to 32 rows (16 in f32) and once more for each further 32. Its own function, as a row's bits may
// not depend on the number of rows: the caller chooses, for all steps of a rollout. Every output is
// summed over K in one order that depends on K alone; the bits are not those of linear.
#pragma once

#include "kernels/matmul.h"

namespace parlo {
namespace cpu {

// y[rows, N] = activation(x[rows, K] w[N, K]' + bias + low rank) + residual, as linear; no
// pre_activation, gate or low_rank_rows. Low-rank factors of x's dtype are used as they are, others
// are converted at every call, which in a decode step costs more than the product.
void skinny_linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args = {});

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::skinny_linear) skinny_linear;
}  // namespace cuda
}  // namespace parlo
