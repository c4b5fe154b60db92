#include "kernels/qk_norm_rope.h"

#include "kernels/norm.h"
#include "tests/kernels/qk_norm_rope_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

// The same by split, rms_norm and rope.
Tensor composite(const Tensor& x, const Tensor& weight, const QkNormRope& p) {
  Tensor y = x.contiguous().clone();
  const Tensor rows = y.view({-1, y.dim(3)});
  if (p.norm)
    cpu::rms_norm(rows, {weight, {}, {}, {}, p.eps}, rows, Tensor::empty({rows.dim(0)}, x.dtype()));
  if (p.cos) cpu::rope(y, p.cos, p.sin, p.style, false, y);
  return y;
}

QkvHeads run(const QkvHeads& x, const QkNormRope& p) {
  const QkvHeads out = like_heads(x);
  cpu::qk_norm_rope(x, p, out);
  return out;
}

}  // namespace

TEST_CASE("qk_norm_rope: the composite, of a fused projection with grouped heads") {
  for (DType dtype : {DType::f32, DType::f64})
    for (int parts = 0; parts < 16; ++parts)
      for (int64_t D : {2, 6, 40, 64, 96}) {
        const QkNormRope p = make_params(5, D, parts, dtype);
        const Tensor joint = random_tensor({2, 5, 3 + 2, D}, 1, dtype);
        const QkvHeads x = split_heads(joint, 1), y = run(x, p);
        check_close(y.q, composite(x.q, p.q_weight, p), tolerance(dtype) / 5);
        check_close(y.k, composite(x.k, p.k_weight, p), tolerance(dtype) / 5);
        CHECK(same_bits(y.v, x.v));
        // A sample alone, in place, and into positions of a longer sequence.
        const auto one = [](const QkvHeads& t) {
          return QkvHeads{t.q.slice(0, 1, 2), t.k.slice(0, 1, 2), t.v.slice(0, 1, 2)};
        };
        CHECK(same_bits(run(one(x), p).q, one(y).q));
        const Tensor longer = Tensor::zeros({2, 9, 5, D}, dtype);
        cpu::qk_norm_rope(x, p, split_heads(longer.slice(1, 2, 7), 1));
        CHECK(same_bits(split_heads(longer.slice(1, 2, 7), 1).k, y.k));
        cpu::qk_norm_rope({x.q, x.k, {}}, p, {x.q, x.k, {}});
        CHECK(same_bits(joint, joined_heads(y)));
      }
}

TEST_CASE("qk_norm_rope: gradients against finite differences") {
  for (int parts = 0; parts < 16; ++parts) {
    const int64_t D = 6;
    const QkNormRope p = make_params(3, D, parts, DType::f64);
    const Tensor joint = random_tensor({2, 3, 2 + 2, D}, 1, DType::f64);
    const Tensor weights = random_tensor(joint.shape(), 2, DType::f64);
    const Tensor djoint = Tensor::empty_like(joint);
    QkNormRopeGrads g{split_heads(djoint, 1), {}, {}};
    if (p.q_weight) g.dq_weight = Tensor::empty({D}, DType::f64);
    if (p.q_weight) g.dk_weight = Tensor::empty({D}, DType::f64);
    const QkvHeads x = split_heads(joint, 1), dout = split_heads(weights, 1);
    cpu::qk_norm_rope_backward(x, p, dout, g);
    const auto loss = [&] { return weighted_sum(joined_heads(run(x, p)), weights); };
    check_close(djoint, numeric_gradient(joint, loss), 1e-7);
    if (!p.q_weight) continue;
    check_close(g.dq_weight, numeric_gradient(p.q_weight, loss), 1e-7);
    check_close(g.dk_weight, numeric_gradient(p.k_weight, loss), 1e-7);
    // A weight's gradient alone, and dx over dout.
    const Tensor alone = Tensor::empty({D}, DType::f64), over = weights.clone();
    cpu::qk_norm_rope_backward(x, p, dout, {{}, {}, alone});
    CHECK(same_bits(alone, g.dk_weight));
    cpu::qk_norm_rope_backward(x, p, split_heads(over, 1), {split_heads(over, 1), {}, {}});
    CHECK(same_bits(over, djoint));
  }
}

TEST_CASE("qk_norm_rope: threads, nothing, and what it refuses") {
  const QkNormRope p = make_params(70, 64, 15, DType::f32);
  const Tensor joint = random_tensor({2, 70, 12, 64}, 1);
  const QkvHeads x = split_heads(joint, 4);
  check_thread_counts([&] {
    const QkNormRopeGrads g{like_heads(x), Tensor::empty({64}), Tensor::empty({64})};
    cpu::qk_norm_rope_backward(x, p, run(x, p), g);
    return std::vector<Tensor>{run(x, p).q, g.dx.k, g.dq_weight, g.dk_weight};
  });
  run(split_heads(Tensor::empty({0, 70, 3, 64}), 1), p);
  cpu::qk_norm_rope({}, p, {});
  const auto message = [&](const QkvHeads& in, const QkNormRope& params, const QkvHeads& out) {
    return message_of([&] { cpu::qk_norm_rope(in, params, out); });
  };
  const QkvHeads y = like_heads(x);
  CHECK(contains(message({}, p, y), "qk_norm_rope: q is missing"));
  CHECK(contains(message({y.q, x.k.slice(2, 0, 3), {}}, p, {y.q, y.k, {}}), "k has shape"));
  CHECK(contains(message(x, make_params(69, 64, 4, DType::f32), y), "qk_norm_rope: cos"));
  CHECK(contains(message(x, make_params(70, 32, kNorm | kWeight, DType::f32), y),
                 "qk_norm_rope: weight"));
  CHECK(contains(
      message_of([&] {
        cpu::qk_norm_rope_backward(x, QkNormRope(), y, {like_heads(x), Tensor::empty({64}), {}});
      }),
      "q has no weight"));
}
