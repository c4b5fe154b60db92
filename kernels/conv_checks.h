// Sizes of a convolution and the checks of its operands, the same on every device.
#pragma once

#include "kernels/conv.h"

namespace parlo {

struct ConvSizes {
  int64_t batch = 0, in = 0, out = 0, groups = 1;
  ConvAxes size, kernel, result;  // of x, w and y
  ConvAxes stride, before;
  Border border = Border::zero;

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t col_rows() const { return in / groups * taps(); }
  int64_t area() const { return result[0] * result[1] * result[2]; }  // of a channel of y
};

inline ConvSizes check_conv(const char* function, const Tensor& x, const Tensor& w, const Tensor& y,
                            const Conv3dArgs& args) {
  CHECK(x.rank() == 5 && w.rank() == 5, function, ": x has shape ", x.shape(), " and w ", w.shape(),
        ", expected (B, I, D, H, W) and (O, I / groups, kd, kh, kw)");
  ConvSizes c;
  c.batch = x.dim(0), c.in = x.dim(1), c.out = w.dim(0), c.groups = args.groups;
  c.stride = args.stride, c.before = args.before, c.border = args.border;
  CHECK(
      c.groups >= 1 && c.in % c.groups == 0 && c.out % c.groups == 0 && w.dim(1) == c.in / c.groups,
      function, ": x has ", c.in, " channels and w has shape ", w.shape(), " in ", c.groups,
      " groups");
  for (int i = 0; i < 3; ++i) {
    const auto axis = static_cast<size_t>(i);
    const int64_t size = x.dim(i + 2), kernel = w.dim(i + 2), stride = args.stride[axis];
    const int64_t before = args.before[axis], after = args.after[axis];
    CHECK(stride >= 1 && before >= 0 && after >= 0, function, ": stride ", stride, ", padding ",
          before, " and ", after, ": expected >= 1, >= 0, >= 0");
    CHECK(kernel >= 1 && size + before + after >= kernel, function, ": kernel of shape ", w.shape(),
          " is empty or larger than the padded image of shape ", x.shape());
    CHECK(size > 0 || c.border == Border::zero, function, ": x of shape ", x.shape(),
          " has nothing to replicate");
    c.size[axis] = size, c.kernel[axis] = kernel;
    c.result[axis] = (size + before + after - kernel) / stride + 1;
  }
  check_shape(function, "y", y, {c.batch, c.out, c.result[0], c.result[1], c.result[2]});
  CHECK(x.dtype() == w.dtype() && x.dtype() == y.dtype(), function, ": x is ",
        dtype_name(x.dtype()), ", w is ", dtype_name(w.dtype()), ", y is ", dtype_name(y.dtype()),
        ": expected one dtype");
  return c;
}

inline ConvSizes check_conv_forward(const char* function, const Tensor& x, const Tensor& w,
                                    const Tensor& bias, const Tensor& residual, const Tensor& y,
                                    const Conv3dArgs& args) {
  const ConvSizes c = check_conv(function, x, w, y, args);
  CHECK(y.is_contiguous(), function, ": y is not contiguous");
  if (bias) check_shape(function, "bias", bias, {c.out});
  if (residual) check_shape(function, "residual", residual, y.shape());
  return c;
}

inline ConvSizes check_conv_backward(const char* function, const Tensor& x, const Tensor& w,
                                     const Tensor& dy, const Tensor& dx, const Tensor& dw,
                                     const Tensor& dbias, const Conv3dArgs& args) {
  const ConvSizes c = check_conv(function, x, w, dy, args);
  if (dx) check_shape(function, "dx", dx, x.shape());
  if (dw) check_shape(function, "dw", dw, w.shape());
  if (dbias) check_shape(function, "dbias", dbias, {c.out});
  for (const Tensor* t : {&dx, &dw, &dbias}) {
    CHECK(!*t || t->is_contiguous(), function, ": dx, dw and dbias must be contiguous");
    CHECK(!*t || t->dtype() == x.dtype(), function, ": a gradient is ", dtype_name(t->dtype()),
          ", expected ", dtype_name(x.dtype()));
  }
  return c;
}

// Images as volumes of depth 1.
inline Tensor as_volume(const char* function, const Tensor& t) {
  if (!t) return t;
  CHECK(t.rank() == 4, function, ": an operand has shape ", t.shape(), ", expected rank 4");
  return t.unsqueeze(2);
}

}  // namespace parlo
