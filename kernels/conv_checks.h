// Sizes of a convolution and the checks of its operands, the same on every device.
#pragma once

#include "kernels/conv.h"

namespace parlo {

struct ConvSizes {
  int64_t batch, in, out, h, w, kh, kw, oh, ow, stride, padding, groups;
  int64_t col_rows() const { return in / groups * kh * kw; }
};

inline ConvSizes check_conv(const char* function, const Tensor& x, const Tensor& w, const Tensor& y,
                            const Conv2dArgs& args) {
  CHECK(x.rank() == 4 && w.rank() == 4, function, ": x has shape ", x.shape(), " and w ", w.shape(),
        ", expected (B, I, H, W) and (O, I / groups, kh, kw)");
  ConvSizes c{x.dim(0), x.dim(1), w.dim(0), x.dim(2),    x.dim(3),     w.dim(2),
              w.dim(3), 0,        0,        args.stride, args.padding, args.groups};
  CHECK(c.stride >= 1 && c.padding >= 0 && c.groups >= 1, function, ": stride ", c.stride,
        ", padding ", c.padding, ", groups ", c.groups, ": expected >= 1, >= 0, >= 1");
  CHECK(c.in % c.groups == 0 && c.out % c.groups == 0 && w.dim(1) == c.in / c.groups, function,
        ": x has ", c.in, " channels and w has shape ", w.shape(), " in ", c.groups, " groups");
  CHECK(c.h + 2 * c.padding >= c.kh && c.w + 2 * c.padding >= c.kw, function, ": kernel ", c.kh,
        " x ", c.kw, " is larger than the padded image of shape ", x.shape());
  c.oh = (c.h + 2 * c.padding - c.kh) / c.stride + 1;
  c.ow = (c.w + 2 * c.padding - c.kw) / c.stride + 1;
  check_shape(function, "y", y, {c.batch, c.out, c.oh, c.ow});
  CHECK(x.dtype() == w.dtype() && x.dtype() == y.dtype(), function, ": x is ",
        dtype_name(x.dtype()), ", w is ", dtype_name(w.dtype()), ", y is ", dtype_name(y.dtype()),
        ": expected one dtype");
  return c;
}

inline void check_conv_outputs(const Tensor& x, const Tensor& w, const Tensor& dx, const Tensor& dw,
                               const Tensor& dbias) {
  if (dx) check_shape("conv2d_backward", "dx", dx, x.shape());
  if (dw) check_shape("conv2d_backward", "dw", dw, w.shape());
  if (dbias) check_shape("conv2d_backward", "dbias", dbias, {w.dim(0)});
  CHECK((!dx || dx.is_contiguous()) && (!dw || dw.is_contiguous()) &&
            (!dbias || dbias.is_contiguous()),
        "conv2d_backward: dx, dw and dbias must be contiguous");
}

}  // namespace parlo
