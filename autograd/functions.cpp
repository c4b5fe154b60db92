#include "autograd/functions.h"

#include <algorithm>

#include "autograd/ops/shared.h"
#include "kernels/dispatch.h"
#include "kernels/elementwise.h"
#include "kernels/matmul.h"
#include "kernels/random.h"
#include "kernels/reduce.h"

namespace parlo {

Tensor random_normal(RandomKey key, const Shape& shape, double std, Device device) {
  Tensor t = Tensor::empty(shape, DType::f32, device);
  DISPATCH(t.device(), random_normal(key, t));
  if (std != 1.0) DISPATCH(t.device(), scale_shift(std, 0.0, t, t));
  return t;
}

Tensor random_uniform(RandomKey key, const Shape& shape, Device device) {
  Tensor t = Tensor::empty(shape, DType::f32, device);
  DISPATCH(t.device(), random_uniform(key, t));
  return t;
}

bool all_finite(const Tensor& x) {
  if (x.device().is_meta()) return true;
  const bool floating = x.dtype() == DType::f32 || x.dtype() == DType::f64;
  if (floating) return DISPATCH(x.device(), all_finite(x.contiguous()));
  // In pieces: a copy of large weights in f32 would double them.
  constexpr int64_t kPiece = int64_t{1} << 18;
  const Tensor flat = x.reshape({-1});
  for (int64_t at = 0; at < flat.numel(); at += kPiece) {
    const Tensor piece = flat.slice(0, at, std::min(at + kPiece, flat.numel())).to(DType::f32);
    if (!DISPATCH(x.device(), all_finite(piece))) return false;
  }
  return true;
}

double sum_squares(const Tensor& x) {
  const Tensor t = x.contiguous();
  return DISPATCH(t.device(), sum_squares(t));
}

void add_scaled(const Tensor& y, double alpha, const Tensor& x) {
  check_shape("add_scaled", "x", x, y.shape());
  DISPATCH(y.device(), axpby(alpha, x.contiguous(), 1.0, y));
}

void matmul_into(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c,
                 double alpha, double beta) {
  DISPATCH(c.device(), matmul(a, trans_a, b, trans_b, c, alpha, beta));
}

FlowStep flow_step(const FlowCoefficients& c, const Tensor& x, const Tensor& v,
                   const std::vector<RandomKey>& keys) {
  check_shape("flow_step", "v", v, x.shape());
  CHECK(c.noise == FlowNoise::ode || static_cast<int64_t>(keys.size()) == x.dim(0),
        "flow_step: ", keys.size(), " keys for ", x.dim(0), " samples");
  FlowStep s{Tensor::empty_like(x), Tensor::empty({x.dim(0)}, statistics_of(x), x.device())};
  DISPATCH(x.device(), flow_step(c, x, v, keys.data(), s.next, s.log_prob, Tensor()));
  return s;
}

Tensor flow_log_prob(const FlowCoefficients& c, const Tensor& x, const Tensor& v,
                     const Tensor& next) {
  Tensor log_prob = Tensor::empty({x.dim(0)}, statistics_of(x), x.device());
  DISPATCH(x.device(), flow_log_prob(c, x, v, next, log_prob));
  return log_prob;
}

FlowLoss flow_loss(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
                   const Tensor& old_log_prob, const Tensor& advantage, const Tensor& v_ref,
                   const FlowLossArgs& args) {
  const auto per_sample = [&] { return Tensor::empty({x.dim(0)}, statistics_of(x), x.device()); };
  FlowLoss r{per_sample(), per_sample(), per_sample(), Tensor::empty_like(x)};
  DISPATCH(x.device(), flow_loss(c, x, v, next, old_log_prob, advantage, v_ref, args, r.loss,
                                 r.ratio, r.kl, r.dv));
  return r;
}

void cache_append(const Tensor& k, const Tensor& v, const KvCache& cache) {
  DISPATCH(cache.k.device(), cache_append(unit_last_stride(k), unit_last_stride(v), cache));
}

Tensor decode_attention(const Tensor& q, const KvCache& cache, double scale) {
  Tensor out = Tensor::empty(q.shape(), q.dtype(), q.device());
  DISPATCH(q.device(), decode_attention(unit_last_stride(q), cache, scale, out));
  return out;
}

Tensor skinny_linear(const Tensor& x, const Tensor& w, const LinearArgs& given) {
  CHECK(x.rank() >= 1 && w.rank() == 2, "skinny_linear: x has shape ", x.shape(), " and w ",
        w.shape(), ", expected (..., K) and (N, K)");
  const Tensor rows = as_rows(x);
  LinearArgs args = given;
  if (args.residual) args.residual = as_rows(args.residual);
  const Tensor y = Tensor::empty({rows.dim(0), w.dim(0)}, x.dtype(), x.device());
  DISPATCH(x.device(), skinny_linear(rows, w.contiguous(), y, args));
  Shape shape = x.shape();
  shape[-1] = w.dim(0);
  return y.view(shape);
}

}  // namespace parlo
