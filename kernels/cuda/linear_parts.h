// Rows of linear, or of its backward, dealt out between the Hopper product and the library.
#pragma once

#include <functional>
#include <vector>

#include "kernels/cuda/gemm_sm90.h"
#include "kernels/linear_rows.h"

namespace parlo::cuda {

// Runs `whole`, whose rows are `parts` with `down` filled. Consecutive parts that the Hopper
// product takes are one launch; library(rows of one part, its adapter or null) does the others.
// What takes a row depends on its own adapter, never on its neighbours, and so its bits do not
// either.
void run_linear_parts(const HopperProduct& whole, const std::vector<LowRankRows>& parts,
                      const std::function<void(const HopperProduct&, const LowRank*)>& library);

}  // namespace parlo::cuda
