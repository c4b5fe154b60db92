// What follows the base product of linear, in place.
#pragma once

#include "kernels/matmul.h"

namespace parlo::cuda {

// y [rows, N] = activation(y + bias) + residual, and pre_activation is what goes into the
// activation. The bias is contiguous and of y's dtype; residual is not y itself.
void linear_tail(const Tensor& y, const LinearArgs& args);

// The same with + scale * down b' before the activation, for bf16. False, and nothing is done,
// where the kernel does not take the rank or the alignment.
bool linear_tail_low_rank(const Tensor& y, const LinearArgs& args);

}  // namespace parlo::cuda
