#include "kernels/attention.h"

#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"
#include "kernels/norm_rope.h"

namespace parlo {

Var attention(const Var& query, const Var& key, const Var& value, const AttentionArgs& given) {
  CHECK(query.rank() == 4 && key.rank() == 4 && value.rank() == 4,
        "attention: expected [B, T, H, D], got q ", query.shape(), " k ", key.shape(), " v ",
        value.shape());
  CHECK(key.shape() == value.shape(), "attention: k ", key.shape(), " and v ", value.shape(),
        " differ");
  CHECK(query.dim(0) == key.dim(0) && query.dim(3) == key.dim(3) && key.dim(2) > 0 &&
            query.dim(2) % key.dim(2) == 0,
        "attention: q ", query.shape(), " does not fit k ", key.shape());
  const Tensor q = unit_last_stride(query.value()), k = unit_last_stride(key.value()),
               v = unit_last_stride(value.value());
  AttentionArgs args = given;
  for (Tensor* mask : {&args.key_lengths, &args.key_mask}) {
    if (*mask) *mask = mask->to(q.device());
  }
  Tensor out = Tensor::empty(q.shape(), q.dtype(), q.device());
  Tensor lse = Tensor::empty({q.dim(0), q.dim(2), q.dim(1)}, statistics_of(q), q.device());
  DISPATCH(q.device(), attention(q, k, v, out, lse, args));
  return record("attention", out, {query, key, value},
                [=](const Tensor& dout, const Need&) -> std::vector<Tensor> {
                  Tensor dq = Tensor::empty(q.shape(), q.dtype(), q.device());
                  Tensor dk = Tensor::empty(k.shape(), k.dtype(), k.device());
                  Tensor dv = Tensor::empty(v.shape(), v.dtype(), v.device());
                  DISPATCH(q.device(),
                           attention_backward(q, k, v, out, lse, dout, dq, dk, dv, args));
                  return {dq, dk, dv};
                });
}

Var rope(const Var& x, const Tensor& cosines, const Tensor& sines, RopeStyle style) {
  CHECK(x.rank() == 4 && x.dim(3) % 2 == 0, "rope: expected [B, T, H, even D], got ", x.shape());
  check_shape("rope", "cos", cosines, {x.dim(1), x.dim(3) / 2});
  check_shape("rope", "sin", sines, {x.dim(1), x.dim(3) / 2});
  const Tensor in = x.value().contiguous();
  const Tensor cos = cosines.to(in.device()), sin = sines.to(in.device());
  Tensor y = Tensor::empty_like(in);
  DISPATCH(in.device(), rope(in, cos, sin, style, false, y));
  return record("rope", y, {x},
                [cos, sin, style](const Tensor& dy, const Need&) -> std::vector<Tensor> {
                  Tensor dx = Tensor::empty_like(dy);
                  DISPATCH(dy.device(), rope(dy, cos, sin, style, true, dx));
                  return {dx};
                });
}

Var norm_rope(const Var& x, const Var& weight, double eps, const Tensor& cosines,
              const Tensor& sines, RopeStyle style) {
  CHECK(x.rank() == 4, "norm_rope: expected [B, T, H, D], got ", x.shape());
  if (weight.requires_grad() || x.dim(3) > 256) {
    const Var y = rms_norm(x, weight, eps);
    return cosines ? rope(y, cosines, sines, style) : y;
  }
  NormRope p;
  const Tensor in = unit_last_stride(x.value());
  if (weight) p.weight = weight.value();
  if (cosines) p.cos = cosines.to(in.device()), p.sin = sines.to(in.device());
  p.style = style, p.eps = eps;
  const Tensor y = Tensor::empty(in.shape(), in.dtype(), in.device());
  DISPATCH(in.device(), norm_rope(in, p, y));
  return record("norm_rope", y, {x}, [in, p](const Tensor& dy, const Need&) -> std::vector<Tensor> {
    const Tensor dx = Tensor::empty(in.shape(), in.dtype(), in.device());
    DISPATCH(in.device(), norm_rope_backward(in, p, dy, dx));
    return {dx};
  });
}

}  // namespace parlo
