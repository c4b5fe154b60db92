// Checks of the operands of layer, RMS and group norm that both backends make.
#pragma once

#include <algorithm>

#include "kernels/checks.h"
#include "kernels/norm.h"

namespace parlo {

// On a GPU rows may be bf16: their statistics are f32, and parameters may be either.
inline bool is_gpu_bf16(const Tensor& x) {
  return x.dtype() == DType::bf16 && x.device().kind == Device::Kind::cuda;
}
inline DType statistics_dtype(const Tensor& x) {
  return is_gpu_bf16(x) ? DType::f32 : x.dtype();
}
// The dtype asked of a parameter t or of its gradient.
inline DType parameter_dtype(const Tensor& x, const Tensor& t) {
  return is_gpu_bf16(x) && t.dtype() == DType::f32 ? DType::f32 : x.dtype();
}

inline void check_parameter(std::string_view function, std::string_view name, const Tensor& t,
                            const Tensor& x, int64_t numel) {
  if (t) check_operand(function, name, t, parameter_dtype(x, t), numel);
}

inline void check_parameter_grad(std::string_view function, std::string_view name, const Tensor& t,
                                 const Tensor& x, int64_t numel) {
  if (t) check_output(function, name, t, parameter_dtype(x, t), numel);
}

// --- layer and RMS norm ---

struct NormShape {
  int64_t rows = 0, columns = 0, groups = 1;
  int64_t rows_per_group() const {
    return std::max<int64_t>(1, rows / std::max<int64_t>(1, groups));
  }
};

inline int64_t groups_of(std::string_view function, std::string_view name, const Tensor& t,
                         DType dtype, const NormShape& shape) {
  CHECK(t.dtype() == dtype && t.rank() == 2 && t.dim(1) == shape.columns &&
            (t.dim(0) ? shape.rows % t.dim(0) == 0 : shape.rows == 0) &&
            (t.strides()[1] == 1 || t.dim(1) <= 1),
        function, ": ", name, " has shape ", t.shape(), ", expected [G, ", shape.columns,
        "] with unit column stride and G dividing ", shape.rows, " rows");
  return t.dim(0);
}

inline NormShape check_norm(std::string_view function, const Tensor& x, const NormParams& p) {
  NormShape shape;
  shape.columns = columns_of(function, x);
  shape.rows = shape.columns ? x.numel() / shape.columns : 0;
  CHECK(p.activation == Activation::none, function, ": an activation is not supported");
  check_operand(function, "x", x, x.dtype(), x.numel());
  check_parameter(function, "weight", p.weight, x, shape.columns);
  check_parameter(function, "bias", p.bias, x, shape.columns);
  if (p.scale)
    shape.groups = groups_of(function, "scale", p.scale, parameter_dtype(x, p.scale), shape);
  if (p.shift) {
    const int64_t groups =
        groups_of(function, "shift", p.shift, parameter_dtype(x, p.shift), shape);
    CHECK(!p.scale || groups == shape.groups, function, ": scale has ", shape.groups,
          " rows, shift ", groups);
    shape.groups = groups;
  }
  return shape;
}

inline void check_grads(std::string_view function, const Tensor& x, const NormShape& shape,
                        const NormGrads& g) {
  if (g.dx) check_output(function, "dx", g.dx, x.dtype(), x.numel());
  check_parameter_grad(function, "dweight", g.dweight, x, shape.columns);
  check_parameter_grad(function, "dbias", g.dbias, x, shape.columns);
  check_parameter_grad(function, "dscale", g.dscale, x, shape.groups * shape.columns);
  check_parameter_grad(function, "dshift", g.dshift, x, shape.groups * shape.columns);
}

inline bool zero_if_empty(const Tensor& x, const NormGrads& g) {
  if (x.numel() > 0) return false;
  for (const Tensor* t : {&g.dweight, &g.dbias, &g.dscale, &g.dshift})
    if (*t) t->fill(0);
  return true;
}

// --- group norm ---

struct GroupShape {
  int64_t batch, channels, positions, groups;
  int64_t group_channels() const { return channels / groups; }
  int64_t group_size() const { return group_channels() * positions; }
};

inline GroupShape check_group_norm(std::string_view function, const Tensor& x, int64_t groups,
                                   const NormParams& p) {
  CHECK(x.defined() && x.rank() >= 2, function, ": expected x [B, C, S]");
  const int64_t B = x.dim(0), C = x.dim(1);
  CHECK(groups >= 1 && C % groups == 0, function, ": ", C, " channels do not split into ", groups,
        " groups");
  check_operand(function, "x", x, x.dtype(), x.numel());
  check_parameter(function, "weight", p.weight, x, C);
  check_parameter(function, "bias", p.bias, x, C);
  CHECK(!p.scale && !p.shift, function, ": scale and shift are not supported");
  CHECK(p.activation == Activation::none || p.activation == Activation::silu, function,
        ": expected no activation or silu");
  int64_t positions = 1;
  for (int i = 2; i < x.rank(); ++i) positions *= x.dim(i);
  return {B, C, positions, groups};
}

inline GroupShape check_group_norm_backward(std::string_view function, const Tensor& x,
                                            int64_t groups, const NormParams& p, const Tensor& mean,
                                            const Tensor& rstd, const Tensor& dy,
                                            const NormGrads& grads) {
  const GroupShape s = check_group_norm(function, x, groups, p);
  check_operand(function, "mean", mean, statistics_dtype(x), s.batch * groups);
  check_operand(function, "rstd", rstd, statistics_dtype(x), s.batch * groups);
  check_operand(function, "dy", dy, x.dtype(), x.numel());
  if (grads.dx) check_output(function, "dx", grads.dx, x.dtype(), x.numel());
  check_parameter_grad(function, "dweight", grads.dweight, x, s.channels);
  check_parameter_grad(function, "dbias", grads.dbias, x, s.channels);
  return s;
}

}  // namespace parlo
