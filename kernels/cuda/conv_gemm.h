// A convolution as a product that gathers its windows on the way (conv_gemm.cu), and what brings
// operands into its order (conv_pack.cu).
#pragma once

#include <vector>

#include "kernels/conv_checks.h"

namespace parlo::cuda {

// One axis: position q < count of the product reads q * stride + shift + k, k < taps, of an input
// with `size` positions, and lies at q * step + first of a result with `extent` positions.
struct ConvAxis {
  int size, count, stride, shift, taps;
  int step = 1, first = 0, extent = 0;
};

struct ConvProduct {
  ConvAxis axis[3];
  bool replicate = false;
  int groups = 1, in = 0, out = 0;  // channels of a group
  // The tap of the weights that tap k of this product is: tap_first + k * tap_step.
  int tap_first[3] = {0, 0, 0}, tap_step[3] = {1, 1, 1};
};

ConvProduct forward_product(const ConvSizes& c);

// dx as products over dy. A stride splits positions of x into classes that meet different taps: one
// product each, of stride 1. `before` and `size` are those of the x that dx stands for, which for
// replicated borders is the padded one.
std::vector<ConvProduct> gradient_products(const ConvSizes& c, const ConvAxes& size,
                                           const ConvAxes& before);

// Rows of channels: position p of image b, group g starts at
// data + b * image + p * row + g * group. 16 bytes a step: rows, groups and data are multiples.
struct ChannelRows {
  const void* data;
  int64_t image, row, group;
};

// Channels of a group, padded to whole steps of 16 bytes.
int64_t padded_channels(int64_t channels, DType dtype);

// Calls body(begin, end, rows) for images [begin, end) of x [B, C, D, H, W]: x itself where its
// channels lie side by side, else copies of some images at a time.
void for_channel_rows(const Tensor& x, int groups,
                      const std::function<void(int64_t, int64_t, const ChannelRows&)>& body);

// Weights [O, I / groups, kd, kh, kw] as [groups, out, taps, in padded] of a product; transposed
// for the product of dx, whose in and out are O and I.
Tensor pack_weights(const ConvProduct& p, const Tensor& w, bool transposed);

// y [B, out, ...] of the product, f32 or of the operands' dtype; bias [out] and residual, of y's
// shape, as x or undefined. The sums of an output are the same bits in any batch.
void conv_gemm(const ConvProduct& p, const ChannelRows& x, const Tensor& w, const Tensor& bias,
               const Tensor& residual, const Tensor& y);

// dx [B, C, D, H, W] from the gradient of x padded by replication, f32 [B, C, padded ...]: what
// lies outside is added to the border.
void fold_borders(const Tensor& padded, const ConvAxes& before, const Tensor& dx);

}  // namespace parlo::cuda
