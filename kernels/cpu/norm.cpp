// Layer and RMS norm: checks and blocks of rows (norm_rows.h).
// Weight, bias and modulation of a group of rows are folded into one gain and offset:
//   y = xhat gain + offset,  gain = weight (1 + scale),  offset = bias (1 + scale) + shift
// The backward collects P = sum dy xhat and Q = sum dy per column over the rows of a group, from
// which all parameter gradients follow:
//   dscale = weight P + bias Q, dshift = Q, dweight = sum (1 + scale) P, dbias = sum (1 + scale) Q
// Sums go over blocks of rows and the blocks are added in order; blocks depend on the shape of one
// group only, so a sample's dscale and dshift do not depend on the batch.
#include "kernels/norm.h"

#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/norm_rows.h"
#include "kernels/norm_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// Gain and offset of one group; points at weight and bias where they need no folding.
template <class T>
class Affine {
 public:
  Affine(const NormParams& p, int64_t columns) : p_(p), columns_(columns) {
    if (p.scale) gain_.resize(static_cast<size_t>(columns));
    if (p.shift || (p.scale && p.bias)) offset_.resize(static_cast<size_t>(columns));
  }

  void fold(int64_t group, NormBlock<T>& b) {
    const T *weight = data_or_null<T>(p_.weight), *bias = data_or_null<T>(p_.bias);
    const T* scale = p_.scale ? p_.scale.data<T>() + group * p_.scale.strides()[0] : nullptr;
    const T* shift = p_.shift ? p_.shift.data<T>() + group * p_.shift.strides()[0] : nullptr;
    // One plain loop a case: a test inside becomes a masked load from null, which traps into
    // microcode for every vector (10 us for 512 columns instead of 0.1).
    T *gain = gain_.data(), *offset = offset_.data();
    const int64_t n = columns_;
    if (scale)
      for (int64_t c = 0; c < n; ++c) gain[c] = T{1} + scale[c];
    if (scale && bias)
      for (int64_t c = 0; c < n; ++c) offset[c] = bias[c] * gain[c];
    else if (bias && shift)
      std::copy_n(bias, n, offset);
    if (scale && weight)
      for (int64_t c = 0; c < n; ++c) gain[c] *= weight[c];
    if (shift && bias)
      for (int64_t c = 0; c < n; ++c) offset[c] += shift[c];
    else if (shift)
      std::copy_n(shift, n, offset);
    b.gain = scale ? gain_.data() : weight;
    b.offset = offset_.empty() ? bias : offset_.data();
  }

 private:
  const NormParams& p_;
  int64_t columns_;
  std::vector<T> gain_, offset_;
};

// Blocks of rows inside one group, several to a chunk of parallel_for.
struct Blocks {
  int64_t rows_per_group, rows, per_group, count, grain;
  explicit Blocks(const NormShape& s)
      : rows_per_group(s.rows_per_group()),
        rows(std::min(rows_per_group, row_grain(s.columns))),
        per_group(ceil_div(rows_per_group, rows)),
        count(s.groups * per_group),
        grain(row_grain(rows * s.columns)) {}
};

// Calls body(block, index) for every block of rows, with the inputs set to the block's first row.
template <class T, class Body>
void for_blocks(const NormShape& shape, const Tensor& x, const NormParams& p, const Tensor& mean,
                const Tensor& rstd, Body&& body) {
  const Blocks blocks(shape);
  parallel_for(blocks.count, blocks.grain, [&](int64_t begin, int64_t end) {
    Affine<T> affine(p, shape.columns);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t group = i / blocks.per_group;
      const int64_t first = group * blocks.rows_per_group + i % blocks.per_group * blocks.rows;
      NormBlock<T> b;
      b.x = x.data<T>() + first * shape.columns;
      b.rows = std::min(first + blocks.rows, (group + 1) * blocks.rows_per_group) - first;
      b.columns = shape.columns;
      b.eps = p.eps;
      b.mean = mean ? mean.data<T>() + first : nullptr;
      b.rstd = rstd.data<T>() + first;
      affine.fold(group, b);
      body(b, i, first * shape.columns);
    }
  });
}

// dscale = weight P + bias Q of one group.
template <class T>
void write_dscale(const T* weight, const T* bias, std::vector<double> P,
                  const std::vector<double>& Q, T* dscale) {
  const size_t C = P.size();
  if (weight)
    for (size_t c = 0; c < C; ++c) P[c] *= weight[c];
  if (bias)
    for (size_t c = 0; c < C; ++c) P[c] += bias[c] * Q[c];
  for (size_t c = 0; c < C; ++c) dscale[c] = static_cast<T>(P[c]);
}

// sum += (1 + scale) x
template <class T>
void add_scaled(const T* scale, const std::vector<double>& x, std::vector<double>& sum) {
  if (scale) {
    for (size_t c = 0; c < x.size(); ++c) sum[c] += (1.0 + scale[c]) * x[c];
  } else {
    for (size_t c = 0; c < x.size(); ++c) sum[c] += x[c];
  }
}

template <class T>
void write(const std::vector<double>& values, T* to) {
  for (size_t c = 0; c < values.size(); ++c) to[c] = static_cast<T>(values[c]);
}

// Turns the P and Q of all blocks (file comment) into parameter gradients.
template <class T>
void combine(const NormShape& shape, const NormParams& p, const Tensor& dy_xhat,
             const Tensor& dy_sum, const NormGrads& grads) {
  const int64_t blocks = Blocks(shape).per_group, C = shape.columns;
  const size_t size = static_cast<size_t>(C);
  std::vector<double> P(size), Q(size), dweight(size), dbias(size);
  for (int64_t g = 0; g < shape.groups; ++g) {
    P.assign(size, 0.0);
    Q.assign(size, 0.0);
    add_rows(dy_xhat.data<T>() + g * blocks * C, blocks, C, P.data());
    if (dy_sum) add_rows(dy_sum.data<T>() + g * blocks * C, blocks, C, Q.data());
    const T* scale = p.scale ? p.scale.data<T>() + g * p.scale.strides()[0] : nullptr;
    add_scaled(scale, P, dweight);
    add_scaled(scale, Q, dbias);
    if (grads.dscale)
      write_dscale<T>(data_or_null<T>(p.weight), data_or_null<T>(p.bias), P, Q,
                      grads.dscale.data<T>() + g * C);
    if (grads.dshift) write(Q, grads.dshift.data<T>() + g * C);
  }
  if (grads.dweight) write(dweight, grads.dweight.data<T>());
  if (grads.dbias) write(dbias, grads.dbias.data<T>());
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
    for_blocks<T>(shape, x, p, mean, rstd, [&](NormBlock<T>& b, int64_t, int64_t offset) {
      b.y = y.data<T>() + offset;
      norm_loops<T>().layer_norm(b);
    });
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
  const bool sums = grads.dweight || grads.dbias || grads.dscale || grads.dshift;
  visit_float(x.dtype(), "layer_norm_backward", [&](auto type) {
    using T = decltype(type);
    const Shape partial = {Blocks(shape).count, shape.columns};
    const Tensor dy_xhat = sums ? Tensor::zeros(partial, x.dtype()) : Tensor();
    const Tensor dy_sum = sums ? Tensor::zeros(partial, x.dtype()) : Tensor();
    for_blocks<T>(shape, x, p, mean, rstd, [&](NormBlock<T>& b, int64_t i, int64_t offset) {
      b.dy = dy.data<T>() + offset;
      b.dx = grads.dx ? grads.dx.data<T>() + offset : nullptr;
      b.dy_xhat = sums ? dy_xhat.data<T>() + i * shape.columns : nullptr;
      b.dy_sum = sums ? dy_sum.data<T>() + i * shape.columns : nullptr;
      norm_loops<T>().layer_norm_backward(b);
    });
    if (sums) combine<T>(shape, p, dy_xhat, dy_sum, grads);
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
    for_blocks<T>(shape, x, used, {}, rstd, [&](NormBlock<T>& b, int64_t, int64_t offset) {
      b.y = y.data<T>() + offset;
      norm_loops<T>().rms_norm(b);
    });
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
    const Tensor dy_xhat =
        grads.dweight ? Tensor::zeros({Blocks(shape).count, shape.columns}, x.dtype()) : Tensor();
    for_blocks<T>(shape, x, used, {}, rstd, [&](NormBlock<T>& b, int64_t i, int64_t offset) {
      b.dy = dy.data<T>() + offset;
      b.dx = grads.dx ? grads.dx.data<T>() + offset : nullptr;
      b.dy_xhat = grads.dweight ? dy_xhat.data<T>() + i * shape.columns : nullptr;
      norm_loops<T>().rms_norm_backward(b);
    });
    if (grads.dweight) combine<T>(shape, used, dy_xhat, {}, grads);
  });
}

}  // namespace parlo::cpu
