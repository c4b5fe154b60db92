// Convolution by im2col: for each image and group, col [I/g kd kh kw, pixels] holds the window
// under every output pixel; y = w col, dw = dy col', dcol = w' dy, and dx collects dcol back. col
// is made for some lines of y at a time, so that it stays in the cache.
#include "kernels/conv.h"

#include <algorithm>

#include "kernels/checks.h"
#include "kernels/conv_checks.h"
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

// Output columns [begin, end) read input columns inside the image for kernel column `at`.
void inside(const Conv& c, int64_t at, int64_t* begin, int64_t* end) {
  const int64_t shift = at - c.before[2];
  *begin = shift >= 0 ? 0 : ceil_div(-shift, c.stride[2]);
  *end = shift >= c.size[2] ? 0 : (c.size[2] - 1 - shift) / c.stride[2] + 1;
  *begin = std::min(*begin, c.result[2]);
  *end = std::clamp(*end, *begin, c.result[2]);
}

// The input position under tap k of output position i; -1 outside.
int64_t position(const Conv& c, size_t axis, int64_t i, int64_t k) {
  const int64_t at = i * c.stride[axis] + k - c.before[axis], last = c.size[axis] - 1;
  if (c.border == Border::replicate) return std::clamp<int64_t>(at, 0, last);
  return at <= last ? std::max<int64_t>(at, -1) : -1;
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
  for (int64_t row = 0; row < c.col_rows(); ++row) {
    const int64_t dj = row % c.kernel[2], di = row / c.kernel[2] % c.kernel[1];
    const int64_t dd = row / (c.kernel[2] * c.kernel[1]) % c.kernel[0], channel = row / c.taps();
    WindowLine<T> w{};
    inside(c, dj, &w.begin, &w.end);
    w.shift = dj - c.before[2];
    w.at = row * slab.pixels();
    int64_t q = slab.begin / c.result[1], r = slab.begin % c.result[1];
    for (int64_t i = slab.begin; i < slab.end; ++i, w.at += slab.width) {
      const int64_t z = position(c, 0, q, dd), y = position(c, 1, r, di);
      if (++r == c.result[1]) r = 0, ++q;
      w.line = z < 0 || y < 0 ? nullptr
                              : image + ((channel * c.size[0] + z) * c.size[1] + y) * c.size[2];
      body(w);
    }
  }
}

template <class T>
void gather_windows(const Conv& c, const Slab& slab, const T* image, T* col) {
  const bool replicate = c.border == Border::replicate;
  for_each_window_line(c, slab, image, [&](const WindowLine<const T>& w) {
    T* out = col + w.at;
    if (!w.line) return std::fill(out, out + slab.width, T(0));
    std::fill(out, out + w.begin, replicate ? w.line[0] : T(0));
    for (int64_t j = w.begin; j < w.end; ++j) out[j] = w.line[j * c.stride[2] + w.shift];
    std::fill(out + w.end, out + slab.width, replicate ? w.line[c.size[2] - 1] : T(0));
  });
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

template <class T>
void add_tail(const Conv& c, const Tensor& bias, const Tensor& residual, const Tensor& y) {
  const int64_t area = c.area();
  parallel_for(c.batch * c.out, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T* plane = y.data<T>() + i * area;
      const T b = bias ? bias.data<T>()[i % c.out] : T(0);
      const T* r = residual ? residual.data<T>() + i * area : nullptr;
      for (int64_t j = 0; j < area; ++j) plane[j] += r ? b + r[j] : b;
    }
  });
}

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

template <class T>
void products(const Conv& c, const Tensor& x, const Tensor& w, const Tensor& y) {
  const int64_t lines = c.result[0] * c.result[1], step = slab_lines(c, x.dtype());
  const int64_t slabs = ceil_div(lines, step);
  parallel_for(c.batch * c.groups * slabs, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / slabs / c.groups, g = i / slabs % c.groups, first = i % slabs * step;
      const Slab slab{first, std::min(lines, first + step), c.result[2]};
      const Tensor col = window_matrix(c, slab, x.dtype());
      gather_windows<T>(c, slab, matrix(x, c, b, g).template data<T>(), col.data<T>());
      matmul(weight_matrix(w, c, g), false, col, false, columns(matrix(y, c, b, g), slab));
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
      gather_windows<T>(c, slab, matrix(x, c, b, g).template data<T>(), col.data<T>());
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
    products<T>(c, x.contiguous(), w.contiguous(), y);
    if (bias || residual) add_tail<T>(c, plain(bias), plain(residual), y);
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
