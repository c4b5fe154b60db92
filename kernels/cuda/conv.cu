// conv2d on a GPU by im2col: y = w col, dw = dy col', dcol = w' dy, and dx gathers dcol.
// col is made in slabs that stay in the L2 cache: some images, or a part of one image's pixels. How
// an image is cut depends on its size alone, so that its bits do not depend on the batch.
#include "kernels/conv.h"

#include "kernels/cuda/common.cuh"

#include <algorithm>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/conv_windows.h"
#include "kernels/matmul.h"

namespace parlo::cuda {
namespace {

constexpr int64_t kSlabBytes = int64_t{32} << 20;
constexpr int64_t kMostImages = 65535;  // layers of a grid

// [B, channels, h, w] as [B, groups, channels / groups, h w].
Tensor planes(const Tensor& t, int64_t groups) {
  return t.view({t.dim(0), groups, t.dim(1) / groups, t.dim(2) * t.dim(3)});
}

// Output pixels of one image that fit a slab, and images at once where all of them fit.
struct Slab {
  int64_t pixels, images;
};

Slab slab_of(const ConvSizes& c, DType dtype) {
  const int64_t column =
      std::max<int64_t>(1, c.in * c.kh * c.kw * static_cast<int64_t>(dtype_size(dtype)));
  const int64_t area = c.oh * c.ow, fit = kSlabBytes / column;
  if (fit < area) return {std::max<int64_t>(64, fit / 64 * 64), 1};
  return {area, std::clamp<int64_t>(fit / area, 1, kMostImages)};
}

// Is x its own window matrix?
bool is_pointwise(const ConvSizes& c) {
  return c.kh == 1 && c.kw == 1 && c.stride == 1 && c.padding == 0;
}

// Calls body(images begin, end, pixels begin, end, col [images, groups, I/g kh kw, pixels]).
template <class Body>
void for_each_slab(const ConvSizes& c, const Tensor& x, Slab slab, Body&& body) {
  const int64_t area = c.oh * c.ow;
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

// Output rows whose windows reach input rows [begin, end).
std::pair<int64_t, int64_t> reaching_rows(const ConvSizes& c, int64_t begin, int64_t end) {
  const int64_t first = begin + c.padding - c.kh + 1;
  const int64_t from = first <= 0 ? 0 : ceil_div(first, c.stride);
  const int64_t to = std::min(c.oh, (end - 1 + c.padding) / c.stride + 1);
  return {std::min(from, to), to};
}

void input_gradient(const ConvSizes& c, const Tensor& w, const Tensor& dy, const Tensor& dx) {
  // Transposed once: matmul's promise about the bits of a batch is for rows as they lie.
  const Tensor turned =
      w.view({1, c.groups, c.out / c.groups, c.col_rows()}).transpose(2, 3).contiguous();
  const Tensor grad = planes(dy, c.groups);
  if (is_pointwise(c)) return matmul(turned, false, grad, false, planes(dx, c.groups));
  const Slab slab = slab_of(c, dx.dtype());
  // Input rows whose windows fill a slab; pieces share the output rows at their edges.
  const int64_t lines = slab.pixels / c.ow - ceil_div(c.kh, c.stride);
  const int64_t piece = slab.pixels == c.oh * c.ow ? c.h : std::max<int64_t>(1, lines * c.stride);
  for (int64_t b = 0; b < c.batch; b += slab.images) {
    const int64_t b_end = std::min(c.batch, b + slab.images);
    for (int64_t y = 0; y < c.h; y += piece) {
      const int64_t y_end = std::min(c.h, y + piece);
      const auto [from, to] = reaching_rows(c, y, y_end);
      const Tensor col = Tensor::empty({b_end - b, c.groups, c.col_rows(), (to - from) * c.ow},
                                       dx.dtype(), dx.device());
      matmul(turned, false, grad.slice(0, b, b_end).slice(3, from * c.ow, to * c.ow), false, col);
      sum_windows(c, col, from, y, y_end, dx.slice(0, b, b_end));
    }
  }
}

// Image after image into f32, slab after slab.
void weight_gradient(const ConvSizes& c, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  const int64_t out = c.out / c.groups, area = c.oh * c.ow;
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

}  // namespace

void conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y,
            const Conv2dArgs& args) {
  const ConvSizes c = check_conv("conv2d", x, w, y, args);
  CHECK(y.is_contiguous(), "conv2d: y is not contiguous");
  if (bias) check_shape("conv2d", "bias", bias, {c.out});
  check_same_device("conv2d", x, w, bias, y);
  visit_dtype_gpu(x.dtype(), "conv2d", [](auto) {});
  if (y.numel() == 0) return;
  // The product is added to the bias: rounded once.
  if (bias) y.copy_from(bias.contiguous().view({1, c.out, 1, 1}).expand(y.shape()));
  const Tensor weight = w.contiguous().view({1, c.groups, c.out / c.groups, c.col_rows()});
  const Tensor out = planes(y, c.groups);
  for_each_slab(c, x.contiguous(), slab_of(c, x.dtype()),
                [&](int64_t b, int64_t b_end, int64_t p, int64_t p_end, const Tensor& col) {
                  matmul(weight, false, col, false, out.slice(0, b, b_end).slice(3, p, p_end), 1.0,
                         bias ? 1.0 : 0.0);
                });
}

void conv2d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv2dArgs& args) {
  const ConvSizes c = check_conv("conv2d_backward", x, w, dy, args);
  check_conv_outputs(x, w, dx, dw, dbias);
  check_same_device("conv2d_backward", x, w, dy, dx, dw, dbias);
  visit_dtype_gpu(x.dtype(), "conv2d_backward", [](auto) {});
  const Tensor grad = dy.contiguous();
  if (dx && dx.numel() > 0) input_gradient(c, w.contiguous(), grad, dx);
  if (dw && dw.numel() > 0) weight_gradient(c, x.contiguous(), grad, dw);
  if (dbias) sum_channels(c, grad, dbias);
}

}  // namespace parlo::cuda
