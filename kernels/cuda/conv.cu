// Convolutions on a GPU: y and dx by products that gather their windows (conv_gemm.cu), dw by
// im2col, dw = dy col'. col is made in slabs that stay in the L2 cache: some images, or a part of
// one image's pixels.
#include "kernels/conv.h"

#include "kernels/cuda/common.cuh"

#include <algorithm>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/conv_gemm.h"
#include "kernels/cuda/conv_windows.h"

namespace parlo::cuda {
namespace {

constexpr int64_t kSlabBytes = int64_t{32} << 20;
constexpr int64_t kMostImages = 65535;  // layers of a grid

// [B, channels, ...] as [B, groups, channels / groups, positions].
Tensor planes(const Tensor& t, int64_t groups) {
  return t.view({t.dim(0), groups, t.dim(1) / groups, t.dim(2) * t.dim(3) * t.dim(4)});
}

// Output pixels of one image that fit a slab, and images at once where all of them fit.
struct Slab {
  int64_t pixels, images;
};

Slab slab_of(const ConvSizes& c, DType dtype) {
  const int64_t column =
      std::max<int64_t>(1, c.in * c.taps() * static_cast<int64_t>(dtype_size(dtype)));
  const int64_t fit = kSlabBytes / column;
  if (fit < c.area()) return {std::max<int64_t>(64, fit / 64 * 64), 1};
  return {c.area(), std::clamp<int64_t>(fit / c.area(), 1, kMostImages)};
}

// Is x its own window matrix?
bool is_pointwise(const ConvSizes& c) {
  return c.taps() == 1 && c.size == c.result && c.before == ConvAxes{0, 0, 0} &&
         c.stride == ConvAxes{1, 1, 1};
}

// Calls body(images begin, end, pixels begin, end, col [images, groups, I/g taps, pixels]).
template <class Body>
void for_each_slab(const ConvSizes& c, const Tensor& x, Slab slab, Body&& body) {
  const int64_t area = c.area();
  if (is_pointwise(c)) return body(0, c.batch, 0, area, planes(x, c.groups));
  for (int64_t b = 0; b < c.batch; b += slab.images) {
    const int64_t b_end = std::min(c.batch, b + slab.images);
    for (int64_t p = 0; p < area; p += slab.pixels) {
      const int64_t p_end = std::min(area, p + slab.pixels);
      const Tensor col =
          Tensor::empty({b_end - b, c.groups, c.col_rows(), p_end - p}, x.dtype(), x.device());
      gather_windows(c, x.slice(0, b, b_end), p, p_end - p, col);
      body(b, b_end, p, p_end, col);
    }
  }
}

// All products read the same dy; the gradient of a replicated border is that of a padded x first.
void input_gradient(const ConvSizes& c, const Tensor& w, const Tensor& dy, const Tensor& dx) {
  const bool replicate = c.border == Border::replicate;
  ConvAxes size = c.size, before = c.before;
  if (replicate) {
    before = {0, 0, 0};
    for (size_t i = 0; i < 3; ++i) {
      const int64_t reach = (c.result[i] - 1) * c.stride[i] + c.kernel[i];
      size[i] = std::max(reach, c.before[i] + c.size[i]);
    }
  }
  const std::vector<ConvProduct> products = gradient_products(c, size, before);
  std::vector<Tensor> weights;
  for (const ConvProduct& p : products) weights.push_back(pack_weights(p, w, true));
  for_channel_rows(dy, static_cast<int>(c.groups), [&](int64_t b, int64_t b_end, ChannelRows rows) {
    const Tensor part = dx.slice(0, b, b_end);
    const Tensor target = replicate ? Tensor::empty({b_end - b, c.in, size[0], size[1], size[2]},
                                                    DType::f32, dx.device())
                                    : part;
    for (size_t i = 0; i < products.size(); ++i) {
      conv_gemm(products[i], rows, weights[i], {}, {}, target);
    }
    if (replicate) fold_borders(target, c.before, part);
  });
}

// Image after image into f32, slab after slab.
void weight_gradient(const ConvSizes& c, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  const int64_t out = c.out / c.groups, area = c.area();
  const Tensor sum =
      dw.dtype() == DType::f32 ? dw : Tensor::empty(dw.shape(), DType::f32, dw.device());
  if (c.batch == 0) sum.fill(0);
  const Tensor grad = planes(dy, c.groups);
  GemmArgs g;
  g.device = x.device();
  g.in = x.dtype(), g.out = DType::f32;
  g.m = out, g.n = c.col_rows();
  g.c = sum.raw(), g.c_row = g.n, g.c_step = out * g.n;
  g.trans_b = true, g.split_k = true;
  g.batch = c.groups;
  g.a_row = area, g.a_step = out * area;
  for_each_slab(c, x, slab_of(c, x.dtype()),
                [&](int64_t b, int64_t b_end, int64_t p, int64_t p_end, const Tensor& col) {
                  g.k = p_end - p;
                  g.b_row = col.dim(3), g.b_step = g.n * col.dim(3);
                  for (int64_t i = b; i < b_end; ++i) {
                    g.a = grad.select(0, i).slice(2, p, p_end).raw();
                    g.b = col.select(0, i - b).raw();
                    if (g.n > 0) gemm(g);
                    g.beta = 1;
                  }
                });
  if (sum.dtype() != dw.dtype()) dw.copy_from(sum);
}

// Contiguous and of x's dtype, or undefined.
Tensor plain(const Tensor& t, const Tensor& x) {
  return t ? t.contiguous().to(x.dtype()) : t;
}

}  // namespace

void conv3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
            const Tensor& y, const Conv3dArgs& args) {
  const ConvSizes c = check_conv_forward("conv3d", x, w, bias, residual, y, args);
  check_same_device("conv3d", x, w, bias, residual, y);
  visit_dtype_gpu(x.dtype(), "conv3d", [](auto) {});
  if (y.numel() == 0) return;
  const ConvProduct product = forward_product(c);
  const Tensor weights = pack_weights(product, w.contiguous(), false);
  const Tensor offset = plain(bias, x), added = plain(residual, x);
  for_channel_rows(x, product.groups, [&](int64_t b, int64_t b_end, const ChannelRows& rows) {
    conv_gemm(product, rows, weights, offset, added ? added.slice(0, b, b_end) : added,
              y.slice(0, b, b_end));
  });
}

void conv3d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv3dArgs& args) {
  const ConvSizes c = check_conv_backward("conv3d_backward", x, w, dy, dx, dw, dbias, args);
  check_same_device("conv3d_backward", x, w, dy, dx, dw, dbias);
  visit_dtype_gpu(x.dtype(), "conv3d_backward", [](auto) {});
  if (dx && dx.numel() > 0) input_gradient(c, w.contiguous(), dy, dx);
  if (!dw && !dbias) return;
  const Tensor grad = dy.contiguous();
  if (dw && dw.numel() > 0) weight_gradient(c, x.contiguous(), grad, dw);
  if (dbias) sum_channels(c, grad, dbias);
}

void conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y,
            const Conv2dArgs& args) {
  conv3d(as_volume("conv2d", x), as_volume("conv2d", w), bias, {}, as_volume("conv2d", y),
         as_conv3d(args));
}

void conv2d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv2dArgs& args) {
  const auto volume = [](const Tensor& t) { return as_volume("conv2d_backward", t); };
  conv3d_backward(volume(x), volume(w), volume(dy), volume(dx), volume(dw), dbias, as_conv3d(args));
}

}  // namespace parlo::cuda
