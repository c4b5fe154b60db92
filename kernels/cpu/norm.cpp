// Layer and RMS norm: checks, the split into blocks of rows, and the plain loops for f64.
// Backward of layer norm with xhat = (x - mean) rstd and g = dy (1 + scale) weight:
//   dx = rstd (g - mean(g) - xhat mean(g xhat))
// Column sums are collected per block of rows and the blocks added in order; blocks depend on the
// shape of one group only, so a sample's dscale and dshift do not depend on the batch.
#include "kernels/norm.h"

#include <cmath>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/norm_isa.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
void layer_norm_rows(const NormRows<T>& a, int64_t begin, int64_t end) {
  const int64_t C = a.columns;
  for (int64_t r = begin; r < end; ++r) {
    const T* x = a.x + r * C;
    T* y = a.y + r * C;
    const int64_t group = r / a.rows_per_group;
    const T* scale = a.scale ? a.scale + group * a.scale_stride : nullptr;
    const T* shift = a.shift ? a.shift + group * a.shift_stride : nullptr;
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < C; ++c) sum += x[c];
    const double mean = sum / C;
    for (int64_t c = 0; c < C; ++c) squares += (x[c] - mean) * (x[c] - mean);
    const double rstd = 1 / std::sqrt(squares / C + a.eps);
    a.mean[r] = static_cast<T>(mean);
    a.rstd[r] = static_cast<T>(rstd);
    for (int64_t c = 0; c < C; ++c) {
      double value = (x[c] - mean) * rstd;
      if (a.weight) value *= a.weight[c];
      if (a.bias) value += a.bias[c];
      if (scale) value *= 1.0 + scale[c];
      if (shift) value += shift[c];
      y[c] = static_cast<T>(value);
    }
  }
}

template <class T>
void layer_norm_backward_rows(const NormRows<T>& a, const NormSums<T>& sums, int64_t begin,
                              int64_t end) {
  const int64_t C = a.columns;
  for (int64_t r = begin; r < end; ++r) {
    const T *x = a.x + r * C, *dy = a.dy + r * C;
    const T* scale = a.scale ? a.scale + r / a.rows_per_group * a.scale_stride : nullptr;
    const double mean = a.mean[r], rstd = a.rstd[r];
    double g_sum = 0, g_xhat_sum = 0;
    for (int64_t c = 0; c < C; ++c) {
      const double xhat = (x[c] - mean) * rstd;
      const double weight = a.weight ? a.weight[c] : 1.0;
      const double d = dy[c] * (scale ? 1.0 + scale[c] : 1.0);
      g_sum += d * weight;
      g_xhat_sum += d * weight * xhat;
      if (sums.dweight) sums.dweight[c] += static_cast<T>(d * xhat);
      if (sums.dbias) sums.dbias[c] += static_cast<T>(d);
      const double before = xhat * weight + (a.bias ? a.bias[c] : 0.0);
      if (sums.dscale) sums.dscale[c] += static_cast<T>(dy[c] * before);
      if (sums.dshift) sums.dshift[c] += dy[c];
    }
    if (!a.dx) continue;
    for (int64_t c = 0; c < C; ++c) {
      const double xhat = (x[c] - mean) * rstd;
      const double g = dy[c] * (scale ? 1.0 + scale[c] : 1.0) * (a.weight ? a.weight[c] : 1.0);
      a.dx[r * C + c] = static_cast<T>(rstd * (g - g_sum / C - xhat * (g_xhat_sum / C)));
    }
  }
}

template <class T>
void rms_norm_rows(const NormRows<T>& a, int64_t begin, int64_t end) {
  const int64_t C = a.columns;
  for (int64_t r = begin; r < end; ++r) {
    const T* x = a.x + r * C;
    double squares = 0;
    for (int64_t c = 0; c < C; ++c) squares += double{x[c]} * x[c];
    const double rstd = 1 / std::sqrt(squares / C + a.eps);
    a.rstd[r] = static_cast<T>(rstd);
    for (int64_t c = 0; c < C; ++c)
      a.y[r * C + c] = static_cast<T>(x[c] * rstd * (a.weight ? a.weight[c] : 1.0));
  }
}

template <class T>
void rms_norm_backward_rows(const NormRows<T>& a, const NormSums<T>& sums, int64_t begin,
                            int64_t end) {
  const int64_t C = a.columns;
  for (int64_t r = begin; r < end; ++r) {
    const T *x = a.x + r * C, *dy = a.dy + r * C;
    const double rstd = a.rstd[r];
    double g_xhat_sum = 0;
    for (int64_t c = 0; c < C; ++c) {
      const double xhat = x[c] * rstd;
      g_xhat_sum += dy[c] * (a.weight ? a.weight[c] : 1.0) * xhat;
      if (sums.dweight) sums.dweight[c] += static_cast<T>(dy[c] * xhat);
    }
    if (!a.dx) continue;
    for (int64_t c = 0; c < C; ++c) {
      const double g = dy[c] * (a.weight ? a.weight[c] : 1.0);
      a.dx[r * C + c] = static_cast<T>(rstd * (g - x[c] * rstd * (g_xhat_sum / C)));
    }
  }
}

struct NormShape {
  int64_t rows = 0, columns = 0, groups = 1;
};

int64_t groups_of(std::string_view function, std::string_view name, const Tensor& t, DType dtype,
                  const NormShape& shape) {
  CHECK(t.dtype() == dtype && t.rank() == 2 && t.dim(1) == shape.columns &&
            (t.dim(0) ? shape.rows % t.dim(0) == 0 : shape.rows == 0) &&
            (t.strides()[1] == 1 || t.dim(1) <= 1),
        function, ": ", name, " has shape ", t.shape(), ", expected [G, ", shape.columns,
        "] with unit column stride and G dividing ", shape.rows, " rows");
  return t.dim(0);
}

NormShape check_norm(std::string_view function, const Tensor& x, const NormParams& p) {
  NormShape shape;
  shape.columns = columns_of(function, x);
  shape.rows = shape.columns ? x.numel() / shape.columns : 0;
  check_operand(function, "x", x, x.dtype(), x.numel());
  if (p.weight) check_operand(function, "weight", p.weight, x.dtype(), shape.columns);
  if (p.bias) check_operand(function, "bias", p.bias, x.dtype(), shape.columns);
  if (p.scale) shape.groups = groups_of(function, "scale", p.scale, x.dtype(), shape);
  if (p.shift) {
    const int64_t groups = groups_of(function, "shift", p.shift, x.dtype(), shape);
    CHECK(!p.scale || groups == shape.groups, function, ": scale has ", shape.groups,
          " rows, shift ", groups);
    shape.groups = groups;
  }
  return shape;
}

template <class T>
NormRows<T> norm_rows(const Tensor& x, const NormParams& p, const NormShape& shape) {
  NormRows<T> a;
  a.x = x.data<T>();
  a.weight = data_or_null<T>(p.weight);
  a.bias = data_or_null<T>(p.bias);
  a.scale = data_or_null<T>(p.scale);
  a.shift = data_or_null<T>(p.shift);
  a.scale_stride = p.scale ? p.scale.strides()[0] : 0;
  a.shift_stride = p.shift ? p.shift.strides()[0] : 0;
  a.rows_per_group = std::max<int64_t>(1, shape.rows / std::max<int64_t>(1, shape.groups));
  a.columns = shape.columns;
  a.eps = p.eps;
  return a;
}

// out[g] = sum of the `count` rows of partial that belong to group g, in order.
template <class T>
void combine(const Tensor& partial, int64_t count, const Tensor& out) {
  const int64_t C = out.dim(-1), groups = C ? out.numel() / C : 0;
  const T* from = partial.data<T>();
  T* to = out.data<T>();
  std::vector<double> sum(static_cast<size_t>(C));
  for (int64_t g = 0; g < groups; ++g) {
    std::fill(sum.begin(), sum.end(), 0.0);
    for (int64_t k = 0; k < count; ++k)
      for (int64_t c = 0; c < C; ++c) sum[c] += from[(g * count + k) * C + c];
    for (int64_t c = 0; c < C; ++c) to[g * C + c] = static_cast<T>(sum[c]);
  }
}

// Blocks of rows inside one group, several to a chunk of parallel_for.
struct Blocks {
  int64_t rows_per_group, rows, per_group, count, grain, chunks;
  Blocks(const NormShape& s)
      : rows_per_group(std::max<int64_t>(1, s.rows / s.groups)),
        rows(std::min(rows_per_group, row_grain(s.columns))),
        per_group(ceil_div(rows_per_group, rows)),
        count(s.groups * per_group),
        grain(row_grain(rows * s.columns)),
        chunks(ceil_div(count, grain)) {}
};

// Calls body(sums, begin, end) for blocks of rows and combines the column sums into grads.
template <class T, class Body>
void backward_blocks(const NormShape& shape, const NormGrads& grads, Body&& body) {
  const Blocks blocks(shape);
  const int64_t C = shape.columns;
  const DType dtype = dtype_of<T>;
  const auto partial = [&](const Tensor& wanted, int64_t count) {
    return wanted ? Tensor::zeros({count, C}, dtype) : Tensor();
  };
  const Tensor dweight = partial(grads.dweight, blocks.chunks);
  const Tensor dbias = partial(grads.dbias, blocks.chunks);
  const Tensor dscale = partial(grads.dscale, blocks.count);
  const Tensor dshift = partial(grads.dshift, blocks.count);
  const auto row = [C](const Tensor& t, int64_t i) { return t ? t.data<T>() + i * C : nullptr; };
  parallel_for(blocks.count, blocks.grain, [&](int64_t begin, int64_t end) {
    const int64_t chunk = begin / blocks.grain;
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / blocks.per_group;
      const int64_t first = group * blocks.rows_per_group + i % blocks.per_group * blocks.rows;
      const int64_t last = std::min(first + blocks.rows, (group + 1) * blocks.rows_per_group);
      body(NormSums<T>{row(dweight, chunk), row(dbias, chunk), row(dscale, i), row(dshift, i)},
           first, last);
    }
  });
  if (dweight) combine<T>(dweight, blocks.chunks, grads.dweight);
  if (dbias) combine<T>(dbias, blocks.chunks, grads.dbias);
  if (dscale) combine<T>(dscale, blocks.per_group, grads.dscale);
  if (dshift) combine<T>(dshift, blocks.per_group, grads.dshift);
}

void check_grads(std::string_view function, const Tensor& x, const NormShape& shape,
                 const NormGrads& g) {
  const DType dtype = x.dtype();
  if (g.dx) check_output(function, "dx", g.dx, dtype, x.numel());
  if (g.dweight) check_output(function, "dweight", g.dweight, dtype, shape.columns);
  if (g.dbias) check_output(function, "dbias", g.dbias, dtype, shape.columns);
  const int64_t modulation = shape.groups * shape.columns;
  if (g.dscale) check_output(function, "dscale", g.dscale, dtype, modulation);
  if (g.dshift) check_output(function, "dshift", g.dshift, dtype, modulation);
}

bool zero_if_empty(const Tensor& x, const NormGrads& g) {
  if (x.numel() > 0) return false;
  for (const Tensor* t : {&g.dweight, &g.dbias, &g.dscale, &g.dshift})
    if (*t) t->fill(0);
  return true;
}

}  // namespace

void layer_norm(const Tensor& x, const NormParams& p, const Tensor& y, const Tensor& mean,
                const Tensor& rstd) {
  const NormShape shape = check_norm("layer_norm", x, p);
  check_output("layer_norm", "y", y, x.dtype(), x.numel());
  if (x.numel() == 0) return;
  check_output("layer_norm", "mean", mean, x.dtype(), shape.rows);
  check_output("layer_norm", "rstd", rstd, x.dtype(), shape.rows);
  visit_float(x.dtype(), "layer_norm", [&](auto type) {
    using T = decltype(type);
    NormRows<T> a = norm_rows<T>(x, p, shape);
    a.y = y.data<T>();
    a.mean = mean.data<T>();
    a.rstd = rstd.data<T>();
    parallel_for(shape.rows, row_grain(shape.columns),
                 [&](int64_t begin, int64_t end) { layer_norm_rows(a, begin, end); });
  });
}

void layer_norm_backward(const Tensor& x, const NormParams& p, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dy, const NormGrads& grads) {
  const NormShape shape = check_norm("layer_norm_backward", x, p);
  check_grads("layer_norm_backward", x, shape, grads);
  check_operand("layer_norm_backward", "dy", dy, x.dtype(), x.numel());
  if (zero_if_empty(x, grads)) return;
  check_operand("layer_norm_backward", "mean", mean, x.dtype(), shape.rows);
  check_operand("layer_norm_backward", "rstd", rstd, x.dtype(), shape.rows);
  visit_float(x.dtype(), "layer_norm_backward", [&](auto type) {
    using T = decltype(type);
    NormRows<T> a = norm_rows<T>(x, p, shape);
    a.mean = mean.data<T>();
    a.rstd = rstd.data<T>();
    a.dy = dy.data<T>();
    a.dx = data_or_null<T>(grads.dx);
    backward_blocks<T>(shape, grads, [&](const NormSums<T>& sums, int64_t begin, int64_t end) {
      layer_norm_backward_rows(a, sums, begin, end);
    });
  });
}

void rms_norm(const Tensor& x, const NormParams& p, const Tensor& y, const Tensor& rstd) {
  const NormParams used{p.weight, {}, {}, {}, p.eps};
  const NormShape shape = check_norm("rms_norm", x, used);
  check_output("rms_norm", "y", y, x.dtype(), x.numel());
  if (x.numel() == 0) return;
  check_output("rms_norm", "rstd", rstd, x.dtype(), shape.rows);
  visit_float(x.dtype(), "rms_norm", [&](auto type) {
    using T = decltype(type);
    NormRows<T> a = norm_rows<T>(x, used, shape);
    a.y = y.data<T>();
    a.rstd = rstd.data<T>();
    parallel_for(shape.rows, row_grain(shape.columns),
                 [&](int64_t begin, int64_t end) { rms_norm_rows(a, begin, end); });
  });
}

void rms_norm_backward(const Tensor& x, const NormParams& p, const Tensor& rstd, const Tensor& dy,
                       const NormGrads& grads) {
  const NormParams used{p.weight, {}, {}, {}, p.eps};
  const NormShape shape = check_norm("rms_norm_backward", x, used);
  CHECK(!grads.dbias && !grads.dscale && !grads.dshift,
        "rms_norm_backward: has gradients for dx and dweight only");
  check_grads("rms_norm_backward", x, shape, grads);
  check_operand("rms_norm_backward", "dy", dy, x.dtype(), x.numel());
  if (zero_if_empty(x, grads)) return;
  check_operand("rms_norm_backward", "rstd", rstd, x.dtype(), shape.rows);
  visit_float(x.dtype(), "rms_norm_backward", [&](auto type) {
    using T = decltype(type);
    NormRows<T> a = norm_rows<T>(x, used, shape);
    a.rstd = rstd.data<T>();
    a.dy = dy.data<T>();
    a.dx = data_or_null<T>(grads.dx);
    backward_blocks<T>(shape, grads, [&](const NormSums<T>& sums, int64_t begin, int64_t end) {
      rms_norm_backward_rows(a, sums, begin, end);
    });
  });
}

}  // namespace parlo::cpu
