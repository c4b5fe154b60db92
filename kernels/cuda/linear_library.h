// Parts of linear.cu that glu_linear.cu shares.
#pragma once

#include <vector>

#include "kernels/matmul.h"

namespace parlo::cuda {

// The parts of x's rows by adapter as the kernels want them: a and b contiguous and of x's dtype,
// `down` there and filled.
std::vector<LowRankRows> ready_parts(const Tensor& x, const LinearArgs& args);

// linear by cuBLASLt and what must follow it. args.low_rank is ready, or null; low_rank_rows are
// not read.
void linear_library(const Tensor& x, const Tensor& w, const Tensor& y, LinearArgs args);

}  // namespace parlo::cuda
