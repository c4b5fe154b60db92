#include "kernels/norm.h"

#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/add_rms_norm.h"
#include "kernels/dispatch.h"

namespace parlo {
namespace {

Tensor maybe(const Var& v) {
  return v ? v.value().contiguous() : Tensor();
}

Tensor like_if(bool wanted, const Tensor& t) {
  return wanted ? Tensor::empty(t.shape(), t.dtype(), t.device()) : Tensor();
}

int64_t last_axis(const char* name, const Var& x) {
  CHECK(x.rank() >= 1, name, ": expected x [..., C], got a scalar");
  return x.dim(-1);
}

void check_params(const char* name, int64_t channels, const Var& weight, const Var& bias) {
  if (weight) check_shape(name, "weight", weight.value(), {channels});
  if (bias) check_shape(name, "bias", bias.value(), {channels});
}

// Rows of channels [B, S, C] seen as [B, C, ...].
Tensor volume_of_rows(const Tensor& rows, const Shape& shape) {
  Shape order = shape;
  order.erase(1);
  order.push_back(shape[1]);
  std::vector<int> axes = {0, shape.rank() - 1};
  for (int i = 1; i + 1 < shape.rank(); ++i) axes.push_back(i);
  return rows.view(order).permute(axes);
}

}  // namespace

Var layer_norm(const Var& x, const Var& weight, const Var& bias, double eps, const Var& scale,
               const Var& shift) {
  check_params("layer_norm", last_axis("layer_norm", x), weight, bias);
  NormParams p{maybe(weight), maybe(bias), {}, {}, eps};
  if (scale) {
    check_shape("layer_norm", "scale", scale.value(), {x.dim(0), x.dim(-1)});
    p.scale = unit_last_stride(scale.value());
  }
  if (shift) {
    check_shape("layer_norm", "shift", shift.value(), {x.dim(0), x.dim(-1)});
    p.shift = unit_last_stride(shift.value());
  }
  const Shape shape = x.shape();
  const Tensor rows = as_rows(x.value());
  Tensor y = Tensor::empty(rows.shape(), rows.dtype(), rows.device());
  Tensor mean = Tensor::empty({rows.dim(0)}, statistics_of(rows), rows.device());
  Tensor rstd = Tensor::empty_like(mean);
  DISPATCH(rows.device(), layer_norm(rows, p, y, mean, rstd));
  return record(
      "layer_norm", y.view(shape), {x, weight, bias, scale, shift},
      [=](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
        NormGrads g{like_if(need[0], rows), like_if(need[1], p.weight), like_if(need[2], p.bias),
                    like_if(need[3], p.scale), like_if(need[4], p.shift)};
        DISPATCH(rows.device(), layer_norm_backward(rows, p, mean, rstd, dy.view(rows.shape()), g));
        return {need[0] ? g.dx.view(shape) : Tensor(), g.dweight, g.dbias, g.dscale, g.dshift};
      });
}

Var rms_norm(const Var& x, const Var& weight, double eps) {
  check_params("rms_norm", last_axis("rms_norm", x), weight, {});
  const NormParams p{maybe(weight), {}, {}, {}, eps};
  const Shape shape = x.shape();
  const Tensor rows = as_rows(x.value());
  Tensor y = Tensor::empty(rows.shape(), rows.dtype(), rows.device());
  Tensor rstd = Tensor::empty({rows.dim(0)}, statistics_of(rows), rows.device());
  DISPATCH(rows.device(), rms_norm(rows, p, y, rstd));
  return record("rms_norm", y.view(shape), {x, weight},
                [=](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  NormGrads g{like_if(need[0], rows), like_if(need[1], p.weight), {}, {}, {}};
                  DISPATCH(rows.device(),
                           rms_norm_backward(rows, p, rstd, dy.view(rows.shape()), g));
                  return {need[0] ? g.dx.view(shape) : Tensor(), g.dweight};
                });
}

NormedSum add_rms_norm(const Var& x, const Var& residual, const Var& weight, double eps) {
  const char* name = "add_rms_norm";
  check_params(name, last_axis(name, x), weight, {});
  check_shape(name, "residual", residual.value(), x.shape());
  const NormParams p{maybe(weight), {}, {}, {}, eps};
  const Shape shape = x.shape();
  const Tensor rows = as_rows(x.value());
  const Tensor y = Tensor::empty_like(rows), sum = Tensor::empty_like(rows);
  const Tensor rstd = Tensor::empty({rows.dim(0)}, statistics_of(rows), rows.device());
  DISPATCH(rows.device(), add_rms_norm(rows, as_rows(residual.value()), p, sum, y, rstd));
  const std::vector<Var> out = record(
      name, {y.view(shape), sum.view(shape)}, {x, residual, weight},
      [=](std::span<const Tensor> dys, const Need& need) -> std::vector<Tensor> {
        if (!dys[0])  // only the sum was used
          return {dys[1], dys[1], need[2] ? Tensor::zeros_like(p.weight) : Tensor()};
        const Tensor dx = like_if(need[0] || need[1], sum), dweight = like_if(need[2], p.weight);
        const Tensor dsum = dys[1] ? dys[1].view(sum.shape()) : Tensor();
        DISPATCH(sum.device(),
                 add_rms_norm_backward(sum, p, rstd, dys[0].view(sum.shape()), dsum, dx, dweight));
        const Tensor shaped = dx ? dx.view(shape) : dx;
        return {shaped, shaped, dweight};
      });
  return {out[0], out[1]};
}

Var group_norm(const Var& x, int64_t groups, const Var& weight, const Var& bias, double eps,
               Activation activation, bool channels_last) {
  CHECK(x.rank() >= 2 && groups > 0 && x.dim(1) % groups == 0, "group_norm: ", groups,
        " groups do not divide the channels of ", x.shape());
  check_params("group_norm", x.dim(1), weight, bias);
  const NormParams p{maybe(weight), maybe(bias), {}, {}, eps, activation};
  const Shape shape = x.shape();
  int64_t spatial = 1;
  for (int i = 2; i < shape.rank(); ++i) spatial *= shape[i];
  const Tensor flat = x.value().reshape({x.dim(0), x.dim(1), spatial});
  const bool rows = channels_last && !flat.device().is_cpu() && x.dim(1) % 8 == 0;
  const Shape order = rows ? Shape{x.dim(0), spatial, x.dim(1)} : flat.shape();
  const Tensor room = Tensor::empty(order, flat.dtype(), flat.device());
  const Tensor y = rows ? room.transpose(1, 2) : room;
  Tensor mean = Tensor::empty({x.dim(0), groups}, statistics_of(flat), flat.device());
  Tensor rstd = Tensor::empty_like(mean);
  DISPATCH(flat.device(), group_norm(flat, groups, p, y, mean, rstd));
  return record(
      "group_norm", rows ? volume_of_rows(room, shape) : y.view(shape), {x, weight, bias},
      [=](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
        NormGrads g{
            like_if(need[0], flat), like_if(need[1], p.weight), like_if(need[2], p.bias), {}, {}};
        DISPATCH(flat.device(),
                 group_norm_backward(flat, groups, p, mean, rstd, dy.view(flat.shape()), g));
        return {need[0] ? g.dx.view(shape) : Tensor(), g.dweight, g.dbias};
      });
}

}  // namespace parlo
