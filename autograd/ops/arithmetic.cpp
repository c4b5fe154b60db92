// Element-wise ops. Broadcast inputs get their gradient summed back to their own shape.
#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"
#include "kernels/glu.h"
#include "kernels/glu_checks.h"
#include "kernels/reduce.h"

namespace parlo {
namespace {

Tensor apply(Binary f, const Tensor& a, const Tensor& b) {
  const Shape shape = broadcast_shapes(a.shape(), b.shape());
  CHECK(a.dtype() == b.dtype(), "arithmetic: dtypes differ (", dtype_name(a.dtype()), " and ",
        dtype_name(b.dtype()), "); convert with Tensor::to");
  Tensor out = Tensor::empty(shape, a.dtype(), a.device());
  DISPATCH(a.device(), binary(f, a.expand(shape), b.expand(shape), out));
  return out;
}

// Sums a gradient of a broadcast result back to the operand's shape.
Tensor unbroadcast(const Tensor& grad, const Shape& shape) {
  if (grad.shape() == shape) return grad;
  Shape padded = shape;
  while (padded.rank() < grad.rank()) padded.insert(0, 1);
  Tensor out = Tensor::empty(padded, grad.dtype(), grad.device());
  DISPATCH(grad.device(), sum_to(grad.contiguous(), out));
  return out.view(shape);
}

Tensor scaled(const Tensor& x, double alpha, double c) {
  Tensor y = Tensor::empty_like(x);
  DISPATCH(x.device(), scale_shift(alpha, c, x, y));
  return y;
}

}  // namespace

Var add(const Var& a, const Var& b) {
  const Shape sa = a.shape(), sb = b.shape();
  return record(
      "add", apply(Binary::add, a.value(), b.value()), {a, b},
      [sa, sb](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
        return {need[0] ? unbroadcast(dy, sa) : Tensor(), need[1] ? unbroadcast(dy, sb) : Tensor()};
      });
}

Var sub(const Var& a, const Var& b) {
  const Shape sa = a.shape(), sb = b.shape();
  return record("sub", apply(Binary::sub, a.value(), b.value()), {a, b},
                [sa, sb](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  return {need[0] ? unbroadcast(dy, sa) : Tensor(),
                          need[1] ? scaled(unbroadcast(dy, sb), -1.0, 0.0) : Tensor()};
                });
}

Var mul(const Var& a, const Var& b) {
  const Tensor x = a.value(), y = b.value();
  return record("mul", apply(Binary::mul, x, y), {a, b},
                [x, y](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  return {need[0] ? unbroadcast(apply(Binary::mul, dy, y), x.shape()) : Tensor(),
                          need[1] ? unbroadcast(apply(Binary::mul, dy, x), y.shape()) : Tensor()};
                });
}

Var div(const Var& a, const Var& b) {
  const Tensor x = a.value(), y = b.value();
  const Tensor quotient = apply(Binary::div, x, y);
  return record("div", quotient, {a, b},
                [x, y, quotient](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  const Tensor da = apply(Binary::div, dy, y);
                  const Tensor db =
                      need[1] ? scaled(apply(Binary::mul, da, quotient), -1.0, 0.0) : Tensor();
                  return {need[0] ? unbroadcast(da, x.shape()) : Tensor(),
                          need[1] ? unbroadcast(db, y.shape()) : Tensor()};
                });
}

Var cast(const Var& x, DType dtype) {
  const DType from = x.dtype();
  if (from == dtype) return x;
  return record(
      "cast", x.value().to(dtype), {x},
      [from](const Tensor& dy, const Need&) -> std::vector<Tensor> { return {dy.to(from)}; });
}

Var unary(Unary f, const Var& v) {
  const Tensor x = v.value().contiguous();
  Tensor y = Tensor::empty_like(x);
  DISPATCH(x.device(), unary(f, x, y));
  return record("unary", y, {v}, [f, x, y](const Tensor& dy, const Need&) -> std::vector<Tensor> {
    Tensor dx = Tensor::empty_like(x);
    DISPATCH(x.device(), unary_backward(f, x, y, dy, dx));
    return {dx};
  });
}

Var affine(const Var& x, double alpha, double c) {
  return record("affine", scaled(x.value().contiguous(), alpha, c), {x},
                [alpha](const Tensor& dy, const Need&) -> std::vector<Tensor> {
                  return {scaled(dy, alpha, 0.0)};
                });
}

Var activation(Activation f, const Var& v) {
  const Tensor x = v.value().contiguous();
  Tensor y = Tensor::empty_like(x);
  DISPATCH(x.device(), activation(f, x, y));
  return record("activation", y, {v}, [f, x](const Tensor& dy, const Need&) -> std::vector<Tensor> {
    Tensor dx = Tensor::empty_like(x);
    DISPATCH(x.device(), activation_backward(f, x, dy, dx));
    return {dx};
  });
}

Var glu(Activation f, const Var& x) {
  CHECK(x.rank() >= 1 && x.dim(-1) % 2 == 0, "glu: x has shape ", x.shape(),
        ", expected [..., 2 F]");
  const Shape given = x.shape();
  const Tensor rows = as_rows(x.value());
  Shape shape = given;
  shape[-1] /= 2;
  Tensor y = Tensor::empty({rows.dim(0), shape[-1]}, rows.dtype(), rows.device());
  DISPATCH(rows.device(), glu(f, glu_half(rows, 0), glu_half(rows, 1), y));
  return record(
      "glu", y.view(shape), {x}, [=](const Tensor& dy, const Need&) -> std::vector<Tensor> {
        const Tensor d = Tensor::empty_like(rows);
        DISPATCH(rows.device(), glu_backward(f, glu_half(rows, 0), glu_half(rows, 1),
                                             dy.view(y.shape()), glu_half(d, 0), glu_half(d, 1)));
        return {d.view(given)};
      });
}

Var glu(Activation f, const Var& a, const Var& b) {
  check_shape("glu", "b", b.value(), a.shape());
  const Shape shape = a.shape();
  const Tensor ra = as_rows(a.value()), rb = as_rows(b.value());
  Tensor y = Tensor::empty_like(ra);
  DISPATCH(ra.device(), glu(f, ra, rb, y));
  return record("glu", y.view(shape), {a, b},
                [=](const Tensor& dy, const Need& need) -> std::vector<Tensor> {
                  const Tensor da = need[0] ? Tensor::empty_like(ra) : Tensor();
                  const Tensor db = need[1] ? Tensor::empty_like(rb) : Tensor();
                  DISPATCH(ra.device(), glu_backward(f, ra, rb, dy.view(ra.shape()), da, db));
                  return {da ? da.view(shape) : da, db ? db.view(shape) : db};
                });
}

Var gate_residual(const Var& residual, const Var& gate, const Var& y) {
  const Shape shape = y.shape();
  CHECK(shape.rank() >= 2, "gate_residual: expected y [B, ..., C], got ", shape);
  check_shape("gate_residual", "residual", residual.value(), shape);
  check_shape("gate_residual", "gate", gate.value(), {shape[0], shape[-1]});
  const Tensor g = unit_last_stride(gate.value()), rows = as_rows(y.value());
  Tensor out = Tensor::empty(shape, y.dtype(), rows.device());
  DISPATCH(rows.device(),
           gate_residual(as_rows(residual.value()), g, rows, out.view(rows.shape())));
  return record("gate_residual", out, {residual, gate, y},
                [g, rows, shape](const Tensor& dout, const Need& need) -> std::vector<Tensor> {
                  Tensor dgate, dy;
                  if (need[1]) dgate = Tensor::empty(g.shape(), g.dtype(), g.device());
                  if (need[2]) dy = Tensor::empty(rows.shape(), rows.dtype(), rows.device());
                  if (need[1] || need[2]) {
                    DISPATCH(rows.device(),
                             gate_residual_backward(g, rows, dout.view(rows.shape()), dgate, dy));
                  }
                  return {need[0] ? dout : Tensor(), dgate, need[2] ? dy.view(shape) : Tensor()};
                });
}

}  // namespace parlo
