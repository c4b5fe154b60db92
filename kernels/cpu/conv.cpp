// Convolution by products with the window matrix col [I/g kd kh kw, pixels] of each image and
// group (conv_windows.h): y = w col, dw = dy col', dcol = w' dy, and dx collects dcol back. In the
// forward the product writes panels of col as it needs them, for some output pixels at a time; in
// the backward col is made for some lines of y.
#include "kernels/conv.h"

#include <algorithm>
#include <vector>

#include "kernels/conv_checks.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/conv_windows.h"
#include "kernels/matmul.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

using Conv = ConvSizes;

constexpr int64_t kSlabBytes = int64_t{16} << 20;
constexpr int64_t kLeastPixels = 256;  // fewer make the product slow

// Lines (rows of output pixels, counted over depth and height) that make a slab.
int64_t slab_lines(const Conv& c, DType dtype) {
  const int64_t column =
      std::max<int64_t>(1, c.col_rows()) * static_cast<int64_t>(dtype_size(dtype));
  return ceil_div(std::max(kSlabBytes / column, kLeastPixels), std::max<int64_t>(1, c.result[2]));
}

// Part of the lines of one image.
struct Slab {
  int64_t begin, end, width;
  int64_t pixels() const { return (end - begin) * width; }
};

// Calls body(slab) in order.
template <class Body>
void for_each_slab(const Conv& c, DType dtype, Body&& body) {
  const int64_t lines = c.result[0] * c.result[1], step = slab_lines(c, dtype);
  for (int64_t i = 0; i < lines; i += step) {
    body(Slab{i, std::min(lines, i + step), c.result[2]});
  }
}

// One line of one row of the window matrix: columns [begin, end) of col are line[j stride + shift],
// the others lie outside.
template <class T>
struct WindowLine {
  T* line;     // null: all of it lies outside
  int64_t at;  // in col
  int64_t begin, end, shift;
};

template <class T, class Body>
void for_each_window_line(const Conv& c, const Slab& slab, T* image, Body&& body) {
  const std::vector<InsideColumns> columns = inside_columns(c);
  for (int64_t row = 0; row < c.col_rows(); ++row) {
    const int64_t dj = row % c.kernel[2], di = row / c.kernel[2] % c.kernel[1];
    const int64_t dd = row / (c.kernel[2] * c.kernel[1]) % c.kernel[0], channel = row / c.taps();
    WindowLine<T> w{};
    const InsideColumns& in = columns[static_cast<size_t>(dj)];
    w.begin = in.begin, w.end = in.end, w.shift = in.shift;
    w.at = row * slab.pixels();
    int64_t q = slab.begin / c.result[1], r = slab.begin % c.result[1];
    for (int64_t i = slab.begin; i < slab.end; ++i, w.at += slab.width) {
      const int64_t z = window_position(c, 0, q, dd), y = window_position(c, 1, r, di);
      if (++r == c.result[1]) r = 0, ++q;
      w.line = z < 0 || y < 0 ? nullptr
                              : image + ((channel * c.size[0] + z) * c.size[1] + y) * c.size[2];
      body(w);
    }
  }
}

template <class T>
void scatter_windows(const Conv& c, const Slab& slab, const T* col, T* image) {
  const bool replicate = c.border == Border::replicate;
  for_each_window_line(c, slab, image, [&](const WindowLine<T>& w) {
    if (!w.line) return;
    const T* from = col + w.at;
    for (int64_t j = w.begin; j < w.end; ++j) w.line[j * c.stride[2] + w.shift] += from[j];
    if (!replicate) return;
    for (int64_t j = 0; j < w.begin; ++j) w.line[0] += from[j];
    for (int64_t j = w.end; j < slab.width; ++j) w.line[c.size[2] - 1] += from[j];
  });
}

// Image b, group g of t [B, channels, ...] as a matrix [channels / groups, positions].
Tensor matrix(const Tensor& t, const Conv& c, int64_t b, int64_t g) {
  const int64_t part = t.dim(1) / c.groups;
  return t.select(0, b)
      .slice(0, g * part, (g + 1) * part)
      .reshape({part, t.dim(2) * t.dim(3) * t.dim(4)});
}

Tensor columns(const Tensor& matrix, const Slab& slab) {
  return matrix.slice(1, slab.begin * slab.width, slab.end * slab.width);
}

Tensor weight_matrix(const Tensor& w, const Conv& c, int64_t g) {
  const int64_t part = c.out / c.groups;
  return w.slice(0, g * part, (g + 1) * part).view({part, c.col_rows()});
}

Tensor window_matrix(const Conv& c, const Slab& slab, DType dtype) {
  return Tensor::empty({c.col_rows(), slab.pixels()}, dtype);
}

// y = product + bias + residual for some output pixels, product [out / groups, pixels].
template <class T>
struct Tail {
  const Conv& c;
  const T *bias, *residual;  // or null
  T* y;

  void write(int64_t b, int64_t g, int64_t first, int64_t pixels, const T* product) const {
    const int64_t part = c.out / c.groups;
    for (int64_t i = 0; i < part; ++i, product += pixels) {
      const int64_t o = g * part + i, at = (b * c.out + o) * c.area() + first;
      const T offset = bias ? bias[o] : T(0);
      const T* r = residual ? residual + at : nullptr;
      for (int64_t j = 0; j < pixels; ++j) y[at + j] = product[j] + (r ? offset + r[j] : offset);
    }
  }
};

template <class T>
void sum_bias(const Conv& c, const Tensor& dy, const Tensor& dbias) {
  for (int64_t o = 0; o < c.out; ++o) {
    T total = 0;
    for (int64_t b = 0; b < c.batch; ++b) {
      const T* plane = dy.data<T>() + (b * c.out + o) * c.area();
      T sum = 0;
      for (int64_t j = 0; j < c.area(); ++j) sum += plane[j];
      total += sum;
    }
    dbias.data<T>()[o] = total;
  }
}

// Output pixels that are computed at a time: with 512 channels out, their products and a block of
// the weights take 400 KB of the L2 each.
constexpr int64_t kPixels = 192;

template <class T>
void products(const Conv& c, const Tensor& x, const Tensor& w, const Tail<T>& tail) {
  const int64_t parts = ceil_div(c.area(), kPixels), channels = c.out / c.groups;
  parallel_for(c.batch * c.groups * parts, 1, [&](int64_t begin, int64_t end) {
    const Tensor room = Tensor::empty({channels * std::min(kPixels, c.area())}, x.dtype());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / parts / c.groups, g = i / parts % c.groups, first = i % parts * kPixels;
      const WindowMatrix<T> windows(c, matrix(x, c, b, g).template data<T>());
      Gemm<T> p;
      p.m = channels, p.n = std::min(kPixels, c.area() - first);
      p.k = c.col_rows();
      p.a = weight_matrix(w, c, g).template data<T>(), p.a_row = c.col_rows();
      p.write_b = [&](const GemmBlock& block, T* out) {
        windows.write({block.k, block.rows, first + block.col, block.cols, block.width}, out);
      };
      p.c = room.data<T>(), p.c_row = p.n;
      gemm(p);
      tail.write(b, g, first, p.n, room.data<T>());
    }
  });
}

template <class T>
void input_gradient(const Conv& c, const Tensor& w, const Tensor& dy, const Tensor& dx) {
  dx.fill(0);
  parallel_for(c.batch * c.groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / c.groups, g = i % c.groups;
      for_each_slab(c, dx.dtype(), [&](const Slab& slab) {
        const Tensor col = window_matrix(c, slab, dx.dtype());
        matmul(weight_matrix(w, c, g), true, columns(matrix(dy, c, b, g), slab), false, col);
        scatter_windows(c, slab, col.data<T>(), matrix(dx, c, b, g).template data<T>());
      });
    }
  });
}

template <class T>
void weight_gradient(const Conv& c, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  dw.fill(0);
  for (int64_t i = 0; i < c.batch * c.groups; ++i) {
    const int64_t b = i / c.groups, g = i % c.groups;
    for_each_slab(c, x.dtype(), [&](const Slab& slab) {
      const Tensor col = window_matrix(c, slab, dw.dtype());
      WindowMatrix<T>(c, matrix(x, c, b, g).template data<T>())
          .write({0, c.col_rows(), slab.begin * slab.width, slab.pixels(), slab.pixels()},
                 col.data<T>());
      matmul(columns(matrix(dy, c, b, g), slab), false, col, true, weight_matrix(dw, c, g), 1.0,
             1.0);
    });
  }
}

}  // namespace

void conv3d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& residual,
            const Tensor& y, const Conv3dArgs& args) {
  const Conv c = check_conv_forward("conv3d", x, w, bias, residual, y, args);
  if (y.numel() == 0) return;
  const auto plain = [](const Tensor& t) { return t ? t.contiguous() : t; };
  visit_float(x.dtype(), "conv3d", [&](auto zero) {
    using T = decltype(zero);
    const Tensor offset = plain(bias), added = plain(residual);
    products<T>(c, x.contiguous(), w.contiguous(),
                {c, data_or_null<T>(offset), data_or_null<T>(added), y.data<T>()});
  });
}

void conv3d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv3dArgs& args) {
  const Conv c = check_conv_backward("conv3d_backward", x, w, dy, dx, dw, dbias, args);
  const Tensor input = x.contiguous(), weight = w.contiguous(), grad = dy.contiguous();
  visit_float(x.dtype(), "conv3d_backward", [&](auto zero) {
    using T = decltype(zero);
    if (dx) input_gradient<T>(c, weight, grad, dx);
    if (dw) weight_gradient<T>(c, input, grad, dw);
    if (dbias) sum_bias<T>(c, grad, dbias);
  });
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

}  // namespace parlo::cpu
