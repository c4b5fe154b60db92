#include "kernels/attention.h"

#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"

namespace parlo {

namespace {

Tokens values_of(const TokenVars& x) {
  return {unit_last_stride(x.first.value()),
          x.second ? unit_last_stride(x.second.value()) : Tensor()};
}

Tokens room_for(const Tokens& x) {
  const auto room = [](const Tensor& t) { return Tensor::empty(t.shape(), t.dtype(), t.device()); };
  return {room(x.first), x.second ? room(x.second) : Tensor()};
}

}  // namespace

Var attention(const Var& query, const Var& key, const Var& value, const AttentionArgs& args) {
  return joint_attention({query, {}}, {key, {}}, {value, {}}, args).first;
}

TokenVars joint_attention(const TokenVars& query, const TokenVars& key, const TokenVars& value,
                          const AttentionArgs& given) {
  const Var &a = query.first, &b = key.first, &c = value.first;
  CHECK(a.rank() == 4 && b.rank() == 4 && c.rank() == 4, "attention: expected [B, T, H, D], got q ",
        a.shape(), " k ", b.shape(), " v ", c.shape());
  CHECK(b.shape() == c.shape(), "attention: k ", b.shape(), " and v ", c.shape(), " differ");
  CHECK(a.dim(0) == b.dim(0) && a.dim(3) == b.dim(3) && b.dim(2) > 0 && a.dim(2) % b.dim(2) == 0,
        "attention: q ", a.shape(), " does not fit k ", b.shape());
  const Tokens q = values_of(query), k = values_of(key), v = values_of(value), out = room_for(q);
  const Device device = q.first.device();
  AttentionArgs args = given;
  for (Tensor* mask : {&args.key_lengths, &args.key_mask}) {
    if (*mask) *mask = mask->to(device);
  }
  Tensor lse = Tensor::empty({a.dim(0), a.dim(2), q.count()}, statistics_of(q.first), device);
  DISPATCH(device, attention(q, k, v, out, lse, args));
  std::vector<Tensor> results{out.first};
  if (out.second) results.push_back(out.second);
  const std::vector<Var> y =
      record("attention", results,
             {query.first, key.first, value.first, query.second, key.second, value.second},
             [=](std::span<const Tensor> dys, const Need&) -> std::vector<Tensor> {
               const auto gradient = [&](size_t i) {
                 const Tensor& of = results[i];
                 return dys[i] ? dys[i] : Tensor::zeros(of.shape(), of.dtype(), device);
               };
               const Tokens dout(gradient(0), out.second ? gradient(1) : Tensor());
               const Tokens dq = room_for(q), dk = room_for(k), dv = room_for(v);
               DISPATCH(device, attention_backward(q, k, v, out, lse, dout, dq, dk, dv, args));
               return {dq.first, dk.first, dv.first, dq.second, dk.second, dv.second};
             });
  return {y[0], y.size() > 1 ? y[1] : Var()};
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

}  // namespace parlo
