// conv2d by im2col: for each image and group, col [I/g kh kw, OH OW] holds the window under every
// output pixel; y = w col, dw = dy col', dcol = w' dy, and dx collects dcol back.
#include "kernels/conv.h"

#include <algorithm>

#include "kernels/conv_checks.h"
#include "kernels/matmul.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

using Conv = ConvSizes;

// Output columns [begin, end) read input columns inside the image for kernel column `at`.
void inside(const Conv& c, int64_t at, int64_t* begin, int64_t* end) {
  const int64_t shift = at - c.padding;
  *begin = shift >= 0 ? 0 : (-shift + c.stride - 1) / c.stride;
  *end = shift >= c.w ? 0 : (c.w - 1 - shift) / c.stride + 1;
  *begin = std::min(*begin, c.ow);
  *end = std::clamp(*end, *begin, c.ow);
}

// Calls body(col row, image row or null, begin, end) for each row of the window matrix.
template <class T, class Body>
void for_each_window_row(const Conv& c, T* image, Body&& body) {
  for (int64_t row = 0; row < c.col_rows(); ++row) {
    const int64_t dj = row % c.kw, di = row / c.kw % c.kh, channel = row / (c.kw * c.kh);
    int64_t begin = 0, end = 0;
    inside(c, dj, &begin, &end);
    for (int64_t i = 0; i < c.oh; ++i) {
      const int64_t y = i * c.stride + di - c.padding;
      T* line = y >= 0 && y < c.h ? image + (channel * c.h + y) * c.w + dj - c.padding : nullptr;
      body((row * c.oh + i) * c.ow, line, begin, end);
    }
  }
}

template <class T>
void gather_windows(const Conv& c, const T* image, T* col) {
  for_each_window_row(c, image, [&](int64_t at, const T* line, int64_t begin, int64_t end) {
    T* out = col + at;
    if (!line) begin = end = 0;
    std::fill(out, out + begin, T(0));
    for (int64_t j = begin; j < end; ++j) out[j] = line[j * c.stride];
    std::fill(out + end, out + c.ow, T(0));
  });
}

template <class T>
void scatter_windows(const Conv& c, const T* col, T* image) {
  for_each_window_row(c, image, [&](int64_t at, T* line, int64_t begin, int64_t end) {
    for (int64_t j = begin; line && j < end; ++j) line[j * c.stride] += col[at + j];
  });
}

// Image b, group g of t [B, channels, h, w] as a matrix [channels / groups, h w].
Tensor matrix(const Tensor& t, const Conv& c, int64_t b, int64_t g) {
  const int64_t part = t.dim(1) / c.groups;
  return t.select(0, b).slice(0, g * part, (g + 1) * part).view({part, t.dim(2) * t.dim(3)});
}

Tensor weight_matrix(const Tensor& w, const Conv& c, int64_t g) {
  const int64_t part = c.out / c.groups;
  return w.slice(0, g * part, (g + 1) * part).view({part, c.col_rows()});
}

template <class T>
void add_bias(const Conv& c, const Tensor& bias, const Tensor& y) {
  const Tensor kept = bias.contiguous();
  for (int64_t i = 0; i < c.batch * c.out; ++i) {
    T* plane = y.data<T>() + i * c.oh * c.ow;
    for (int64_t j = 0; j < c.oh * c.ow; ++j) plane[j] += kept.data<T>()[i % c.out];
  }
}

template <class T>
void sum_bias(const Conv& c, const Tensor& dy, const Tensor& dbias) {
  for (int64_t o = 0; o < c.out; ++o) {
    T total = 0;
    for (int64_t b = 0; b < c.batch; ++b) {
      const T* plane = dy.data<T>() + (b * c.out + o) * c.oh * c.ow;
      T sum = 0;
      for (int64_t j = 0; j < c.oh * c.ow; ++j) sum += plane[j];
      total += sum;
    }
    dbias.data<T>()[o] = total;
  }
}

template <class T>
void input_gradient(const Conv& c, const Tensor& w, const Tensor& dy, const Tensor& dx) {
  dx.fill(0);
  parallel_for(c.batch * c.groups, 1, [&](int64_t begin, int64_t end) {
    const Tensor col = Tensor::empty({c.col_rows(), c.oh * c.ow}, dx.dtype());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t b = i / c.groups, g = i % c.groups;
      matmul(weight_matrix(w, c, g), true, matrix(dy, c, b, g), false, col);
      scatter_windows(c, col.data<T>(), matrix(dx, c, b, g).template data<T>());
    }
  });
}

template <class T>
void weight_gradient(const Conv& c, const Tensor& x, const Tensor& dy, const Tensor& dw) {
  const Tensor col = Tensor::empty({c.col_rows(), c.oh * c.ow}, dw.dtype());
  dw.fill(0);
  for (int64_t i = 0; i < c.batch * c.groups; ++i) {
    const int64_t b = i / c.groups, g = i % c.groups;
    gather_windows<T>(c, matrix(x, c, b, g).template data<T>(), col.data<T>());
    matmul(matrix(dy, c, b, g), false, col, true, weight_matrix(dw, c, g), 1.0, 1.0);
  }
}

}  // namespace

void conv2d(const Tensor& x, const Tensor& w, const Tensor& bias, const Tensor& y,
            const Conv2dArgs& args) {
  const Conv c = check_conv("conv2d", x, w, y, args);
  CHECK(y.is_contiguous(), "conv2d: y is not contiguous");
  if (bias) check_shape("conv2d", "bias", bias, {c.out});
  if (y.numel() == 0) return;
  const Tensor input = x.contiguous(), weight = w.contiguous();
  visit_float(x.dtype(), "conv2d", [&](auto zero) {
    using T = decltype(zero);
    parallel_for(c.batch * c.groups, 1, [&](int64_t begin, int64_t end) {
      const Tensor col = Tensor::empty({c.col_rows(), c.oh * c.ow}, x.dtype());
      for (int64_t i = begin; i < end; ++i) {
        const int64_t b = i / c.groups, g = i % c.groups;
        gather_windows<T>(c, matrix(input, c, b, g).template data<T>(), col.data<T>());
        matmul(weight_matrix(weight, c, g), false, col, false, matrix(y, c, b, g));
      }
    });
    if (bias) add_bias<T>(c, bias, y);
  });
}

void conv2d_backward(const Tensor& x, const Tensor& w, const Tensor& dy, const Tensor& dx,
                     const Tensor& dw, const Tensor& dbias, const Conv2dArgs& args) {
  const Conv c = check_conv("conv2d_backward", x, w, dy, args);
  check_conv_outputs(x, w, dx, dw, dbias);
  const Tensor input = x.contiguous(), weight = w.contiguous(), grad = dy.contiguous();
  visit_float(x.dtype(), "conv2d_backward", [&](auto zero) {
    using T = decltype(zero);
    if (dx) input_gradient<T>(c, weight, grad, dx);
    if (dw) weight_gradient<T>(c, input, grad, dw);
    if (dbias) sum_bias<T>(c, grad, dbias);
  });
}

}  // namespace parlo::cpu
