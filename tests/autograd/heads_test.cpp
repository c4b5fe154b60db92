// Norm and rotation of queries and keys in one pass, against slices, rms_norm and rope.
#include <cmath>

#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

HeadParams rotation(int64_t positions, int64_t d, RopeStyle style, DType dtype) {
  std::vector<double> cos = normal64({positions, d / 2}, 7, 3).to_vector(), sin = cos;
  for (double& a : cos) a = std::cos(a);
  for (double& a : sin) a = std::sin(a);
  HeadParams p;
  p.eps = 1e-3, p.style = style;
  p.cos = Tensor::from(cos, {positions, d / 2}).to(dtype);
  p.sin = Tensor::from(sin, {positions, d / 2}).to(dtype);
  return p;
}

// q, k and v of [B, T, H + 2 kv, D] by split, rms_norm and rope.
Var composite(const Var& qkv, int64_t kv, const HeadParams& p) {
  const int64_t all = qkv.dim(2);
  Var q = slice(qkv, 2, 0, all - 2 * kv), k = slice(qkv, 2, all - 2 * kv, all - kv);
  if (p.norm) q = rms_norm(q, p.q_weight, p.eps), k = rms_norm(k, p.k_weight, p.eps);
  if (p.cos) q = rope(q, p.cos, p.sin, p.style), k = rope(k, p.cos, p.sin, p.style);
  return cat(std::vector<Var>{q, k, slice(qkv, 2, all - kv, all)}, 2);
}

HeadParams params_of(std::span<const Var> in, int64_t d, bool norm, bool turn, RopeStyle style) {
  HeadParams p;
  if (turn) p = rotation(in[0].dim(1), d, style, in[0].dtype());
  p.eps = 1e-3, p.norm = norm;
  if (norm) p.q_weight = in[in.size() - 2], p.k_weight = in[in.size() - 1];
  return p;
}

TEST_CASE("qk_norm_rope of one projection, every mode") {
  for (int mode = 0; mode < 8; ++mode)
    for (const Shape& shape : {Shape{2, 3, 4, 6}, Shape{1, 2, 3, 10}, Shape{0, 2, 3, 4}}) {
      const bool norm = mode & 1, turn = mode & 2;
      const RopeStyle style = mode & 4 ? RopeStyle::halves : RopeStyle::pairs;
      std::vector<Tensor> in{normal64(shape, 1)};
      if (norm) in.push_back(normal64({shape[3]}, 2));
      if (norm) in.push_back(normal64({shape[3]}, 3));
      const auto params = [=](std::span<const Var> v) {
        return params_of(v, shape[3], norm, turn, style);
      };
      const Op fused = [=](std::span<const Var> v) {
        const HeadVars h = qk_norm_rope(v[0], 1, params(v));
        return cat(std::vector<Var>{h.q, h.k, h.v}, 2);
      };
      const Op twin = [=](std::span<const Var> v) { return composite(v[0], 1, params(v)); };
      check_close(check_op("qk_norm_rope", fused, in),
                  run_op(twin, in, std::vector<bool>(in.size())).y);
      // q alone: k and v get gradients of 0.
      const Op q = [=](std::span<const Var> v) { return qk_norm_rope(v[0], 1, params(v)).q; };
      check_op("qk_norm_rope, q alone", q, in);
      const Op v_alone = [=](std::span<const Var> v) { return qk_norm_rope(v[0], 1, params(v)).v; };
      check_op("qk_norm_rope, v alone", v_alone, in);
    }
}

TEST_CASE("qk_norm_rope of queries and keys apart") {
  const std::vector<Tensor> in = {normal64({2, 3, 4, 6}, 1), normal64({2, 3, 2, 6}, 2),
                                  normal64({6}, 3), normal64({6}, 4)};
  const Op fused = [](std::span<const Var> v) {
    const HeadVars h = qk_norm_rope(v[0], v[1], params_of(v, 6, true, true, RopeStyle::halves));
    return cat(std::vector<Var>{h.q, h.k}, 2);
  };
  const Op twin = [](std::span<const Var> v) {
    const HeadParams p = params_of(v, 6, true, true, RopeStyle::halves);
    return cat(std::vector<Var>{rope(rms_norm(v[0], v[2], 1e-3), p.cos, p.sin, p.style),
                                rope(rms_norm(v[1], v[3], 1e-3), p.cos, p.sin, p.style)},
               2);
  };
  check_close(check_op("qk_norm_rope", fused, in), run_op(twin, in, std::vector<bool>(4)).y);
}

TEST_CASE("qk_norm_rope of queries that nothing uses gives them no gradient") {
  const Var q(normal64({1, 2, 2, 4}, 1), true), k(normal64({1, 2, 2, 4}, 2), true);
  HeadParams p;
  p.q_weight = Var(normal64({4}, 3), true), p.k_weight = Var(normal64({4}, 4), true);
  backward(sum(square(qk_norm_rope(q, k, p).k)));
  CHECK(!q.grad().defined());
  CHECK(!p.q_weight.grad().defined());
  CHECK(k.grad().defined());
  CHECK(p.k_weight.grad().defined());
}

TEST_CASE("results of one op inside a checkpoint, used twice or not at all") {
  const Tensor x = normal64({2, 3, 4, 6}, 1), w = normal64({6}, 2);
  const auto run = [&](bool again) {
    const Var qkv(x, true), weight(w, true);
    const auto fn = [&](std::span<const Var> in) {
      HeadParams p;
      p.q_weight = p.k_weight = weight;
      const HeadVars h = qk_norm_rope(in[0], 1, p);
      return sum(mul(h.q, h.q));  // k and v are dropped
    };
    backward(again ? checkpoint(fn, {qkv}) : fn(std::vector<Var>{qkv}));
    return std::vector<Tensor>{qkv.grad(), weight.grad()};
  };
  const std::vector<Tensor> plain = run(false), again = run(true);
  CHECK(same_bits(plain[0], again[0]));
  CHECK(same_bits(plain[1], again[1]));
}

TEST_CASE("qk_norm_rope names what does not fit") {
  const Var qkv(normal64({1, 2, 3, 4}, 1)), three(normal64({3}, 2));
  HeadParams p;
  CHECK(
      contains(message_of([&] { qk_norm_rope(qkv, 2, p); }), "expected qkv [B, T, H + 2 * 2, D]"));
  p.k_weight = three;
  CHECK(contains(message_of([&] { qk_norm_rope(qkv, 1, p); }), "qk_norm_rope: weight of k"));
  CHECK(contains(message_of([&] { qk_norm_rope(qkv, 1, rotation(3, 4, {}, DType::f64)); }),
                 "qk_norm_rope: angles"));
}

}  // namespace
}  // namespace parlo
