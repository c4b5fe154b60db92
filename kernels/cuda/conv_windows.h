// The window matrix of a convolution: col [I kd kh kw, pixels], column p holds what lies under
// output pixel p, rows in the order of the weights.
#pragma once

#include "kernels/conv_checks.h"

namespace parlo::cuda {

// Output pixels [first, first + count) of every image of x: col [B, I kd kh kw, count].
void gather_windows(const ConvSizes& c, const Tensor& x, int64_t first, int64_t count,
                    const Tensor& col);

// dbias[o] = sum of dy [B, O, ...] over all but o.
void sum_channels(const ConvSizes& c, const Tensor& dy, const Tensor& dbias);

}  // namespace parlo::cuda
