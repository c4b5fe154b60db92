#include "autograd/ops.h"
#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"
#include "kernels/qk_norm_rope.h"

namespace parlo {
namespace {

Tensor room_if(bool wanted, const Tensor& like) {
  return wanted ? Tensor::empty_like(like) : Tensor();
}

// Views of one projection.
QkvHeads split(const Tensor& qkv, int64_t kv) {
  const int64_t all = qkv.dim(2);
  return {qkv.slice(2, 0, all - 2 * kv), qkv.slice(2, all - 2 * kv, all - kv),
          qkv.slice(2, all - kv, all)};
}

void check_weight(const char* name, const char* which, const Var& weight, int64_t d) {
  if (weight) check_shape(name, which, weight.value(), {d});
}

QkNormRope kernel_params(const char* name, const HeadParams& given, const Tensor& q) {
  CHECK(q.rank() == 4, name, ": expected heads [B, T, H, D], got ", q.shape());
  check_weight(name, "weight of q", given.q_weight, q.dim(3));
  check_weight(name, "weight of k", given.k_weight, q.dim(3));
  for (const Tensor* angles : {&given.cos, &given.sin})
    if (*angles) check_shape(name, "angles", *angles, {q.dim(1), q.dim(3) / 2});
  const auto there = [&q](const Tensor& t) { return t ? t.to(q.device()).contiguous() : t; };
  const auto value = [](const Var& v) { return v ? v.value().contiguous() : Tensor(); };
  return {given.norm, value(given.q_weight), value(given.k_weight),
          given.eps,  there(given.cos),      there(given.sin),
          given.style};
}

// What came for a result, or zeros.
Tensor gradient(const Tensor& dy, const Tensor& result) {
  return dy ? dy : Tensor::zeros_like(result);
}

// Of q and, where it is there, k.
std::vector<Var> apart(const char* name, const Var& query, const Var& key,
                       const HeadParams& params) {
  const auto heads = [](const Var& v) { return v ? unit_last_stride(v.value()) : Tensor(); };
  const QkvHeads x{heads(query), heads(key), {}};
  const QkNormRope p = kernel_params(name, params, x.q);
  const QkvHeads y{Tensor::empty_like(x.q), room_if(x.k.defined(), x.k), {}};
  DISPATCH(x.q.device(), qk_norm_rope(x, p, y));
  std::vector<Tensor> results{y.q};
  if (y.k) results.push_back(y.k);
  const QkvHeads kept = p.norm ? x : y;  // a rotation alone needs no more than shapes
  return record(name, results, {query, key, params.q_weight, params.k_weight},
                [=](std::span<const Tensor> dys, const Need& need) -> std::vector<Tensor> {
                  // A result that nothing used costs nothing.
                  const QkvHeads dout{dys[0], dys.size() > 1 ? dys[1] : Tensor(), {}};
                  const bool q = dout.q.defined(), k = dout.k.defined();
                  const QkNormRopeGrads g{
                      {room_if(need[0] && q, kept.q), room_if(need[1] && k, kept.k), {}},
                      room_if(need[2] && q, p.q_weight),
                      room_if(need[3] && k, p.k_weight)};
                  DISPATCH(kept.q.device(), qk_norm_rope_backward(kept, p, dout, g));
                  return {g.dx.q, g.dx.k, g.dq_weight, g.dk_weight};
                });
}

}  // namespace

HeadVars qk_norm_rope(const Var& qkv, int64_t kv_heads, const HeadParams& params) {
  const char* name = "qk_norm_rope";
  CHECK(qkv.rank() == 4 && kv_heads > 0 && qkv.dim(2) > 2 * kv_heads, name,
        ": expected qkv [B, T, H + 2 * ", kv_heads, ", D], got ", qkv.shape());
  const Tensor joint = unit_last_stride(qkv.value());
  const QkvHeads x = split(joint, kv_heads);
  const QkNormRope p = kernel_params(name, params, x.q);
  const QkvHeads y{Tensor::empty_like(x.q), Tensor::empty_like(x.k), {}};
  DISPATCH(joint.device(), qk_norm_rope(x, p, y));
  const std::vector<Var> out = record(
      name, {y.q, y.k, x.v}, {qkv, params.q_weight, params.k_weight},
      [=](std::span<const Tensor> dys, const Need& need) -> std::vector<Tensor> {
        // The gradient of v is copied beside the others in the same pass.
        const QkvHeads dout{gradient(dys[0], y.q), gradient(dys[1], y.k), gradient(dys[2], x.v)};
        const Tensor dqkv = room_if(need[0], joint);
        const QkNormRopeGrads g{need[0] ? split(dqkv, kv_heads) : QkvHeads(),
                                room_if(need[1], p.q_weight), room_if(need[2], p.k_weight)};
        DISPATCH(joint.device(), qk_norm_rope_backward(x, p, dout, g));
        return {dqkv, g.dq_weight, g.dk_weight};
      });
  return {out[0], out[1], out[2]};
}

HeadVars qk_norm_rope(const Var& q, const Var& k, const HeadParams& params) {
  const std::vector<Var> out = apart("qk_norm_rope", q, k, params);
  return {out[0], out[1], {}};
}

Var norm_rope(const Var& x, const Var& weight, double eps, const Tensor& cosines,
              const Tensor& sines, RopeStyle style) {
  return apart("norm_rope", x, {}, {true, weight, {}, eps, cosines, sines, style})[0];
}

}  // namespace parlo
