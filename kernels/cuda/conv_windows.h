// The window matrix of a convolution: col [I kh kw, pixels], column (i, j) holds what lies under
// output pixel (i, j), rows in the order of the weights.
#pragma once

#include "kernels/conv_checks.h"

namespace parlo::cuda {

// Output pixels [first, first + count) of every image of x: col [B, I kh kw, count].
void gather_windows(const ConvSizes& c, const Tensor& x, int64_t first, int64_t count,
                    const Tensor& col);

// Rows [y_begin, y_end) of dx [B, I, H, W]: every pixel sums the windows it lies in, in the order
// of the weights. col [B, I kh kw, rows OW] holds the output rows from row_begin on, all that
// reach.
void sum_windows(const ConvSizes& c, const Tensor& col, int64_t row_begin, int64_t y_begin,
                 int64_t y_end, const Tensor& dx);

// dbias[o] = sum of dy [B, O, OH, OW] over all but o.
void sum_channels(const ConvSizes& c, const Tensor& dy, const Tensor& dbias);

}  // namespace parlo::cuda
