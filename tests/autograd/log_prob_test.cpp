// Log-probabilities and entropies under a linear head, against the same in simple ops.
#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

Tensor targets_of(const Shape& shape, int64_t V) {
  std::vector<int64_t> ids;
  for (int64_t r = 0; r < shape.numel(); ++r) ids.push_back(r % 4 == 3 ? -7 : (r * 31 + 1) % V);
  return Tensor::from(ids, shape);
}

// One Var, as check_op wants it: the sum of both with weights that tell them apart.
Var joined(const LogProbs& y) {
  return add(affine(y.log_prob, 1.5), affine(y.entropy, -0.7));
}

// log p = z - log sum exp z, entropy = -sum p log p; ignored rows times 0. Small logits only.
LogProbs composite(const Var& x, const Var& w, const Tensor& targets, double temperature) {
  const Var z = affine(linear(x, w, {}), 1 / temperature);
  const Var log_p = sub(z, log(sum(exp(z), {-1}, true)));
  Tensor kept = Tensor::full(targets.shape(), 1, x.dtype());
  for (int64_t i = 0; i < kept.numel(); ++i) {
    if (targets.data<int64_t>()[i] == -7) kept.view({-1}).slice(0, i, i + 1).fill(0);
  }
  const Var entropy = affine(sum(mul(softmax(z), log_p), {-1}), -1);
  return {affine(cross_entropy(z, targets, -7), -1), mul(entropy, Var(kept))};
}

}  // namespace

TEST_CASE("linear_log_prob") {
  for (const Shape& shape : {Shape{2, 3, 4}, Shape{5}, Shape{6, 1}, Shape{0, 3}}) {
    for (const int64_t V : {7, 1, 1027}) {
      if (V > 100 && shape.rank() != 1) continue;
      Shape rows = shape;
      rows.erase(rows.rank() - 1);
      const Tensor targets = targets_of(rows, V);
      const LinearLogProbArgs args{.temperature = 0.6, .ignore_index = -7};
      const Op op = [=](std::span<const Var> in) {
        return joined(linear_log_prob(in[0], in[1], targets, args));
      };
      const Tensor x = normal64(shape, 1), w = normal64({V, shape[-1]}, 2, 0.5);
      const Tensor y = check_op("linear_log_prob", op, {x, w});
      const Op plain = [=](std::span<const Var> in) {
        return joined(composite(in[0], in[1], targets, 0.6));
      };
      const OpRun fused = run_op(op, {x, w}, {true, true}),
                  simple = run_op(plain, {x, w}, {true, true});
      if (V == 1) {
        CHECK(same_values(y, Tensor::zeros(rows, DType::f64)));
        continue;
      }
      check_close(y, simple.y);
      check_close(fused.grads[0], simple.grads[0]);
      check_close(fused.grads[1], simple.grads[1]);
    }
  }
}

TEST_CASE("linear_log_prob: log-prob or entropy alone, both apart") {
  const Tensor x = normal64({3, 4}, 1), w = normal64({5, 4}, 2), targets = targets_of({3}, 5);
  const LogProbs y = linear_log_prob(Var(x), Var(w), targets);
  const LogProbs e = composite(Var(x), Var(w), targets, 1);
  check_close(y.log_prob.value(), e.log_prob.value());
  check_close(y.entropy.value(), e.entropy.value());
  check_op("log_prob", [&](auto in) { return linear_log_prob(in[0], in[1], targets).log_prob; },
           {x, w});
  check_op("entropy", [&](auto in) { return linear_log_prob(in[0], in[1], targets).entropy; },
           {x, w});
}

TEST_CASE("linear_log_prob: heads in bf16, shapes that do not fit") {
  const Var x(random_tensor({3, 4}, 1), true), w(random_tensor({5, 4}, 2, DType::bf16), true);
  const Tensor targets = targets_of({3}, 5);
  const LogProbs y = linear_log_prob(x, w, targets);
  backward(sum(y.log_prob));
  CHECK(x.grad().dtype() == DType::f32);
  CHECK(w.grad().dtype() == DType::bf16);
  CHECK(contains(message_of([&] { linear_log_prob(x, w, targets_of({4}, 5)); }), "targets"));
  CHECK(contains(message_of([&] {
                   linear_log_prob(x, Var(Tensor::zeros({5, 3})), targets);
                 }),
                 "expected (T, K) and (V, K)"));
}

TEST_CASE("linear_log_prob of which one result is used") {
  const Tensor x = normal64({5, 4}, 1), w = normal64({7, 4}, 2, 0.5), targets = targets_of({5}, 7);
  const LinearLogProbArgs args{.temperature = 0.6, .ignore_index = -7};
  const auto gradient = [&](double of_log_prob, double of_entropy, bool both) {
    Var a(x, true), b(w, true);
    const LogProbs y = linear_log_prob(a, b, targets, args);
    Var used = affine(of_log_prob != 0 ? y.log_prob : y.entropy, of_log_prob + of_entropy);
    if (both) used = add(affine(y.log_prob, of_log_prob), affine(y.entropy, of_entropy));
    backward(sum(used));
    return std::pair{a.grad(), b.grad()};
  };
  for (const auto& [p, h] : {std::pair{1.5, 0.0}, std::pair{0.0, -0.7}}) {
    const auto alone = gradient(p, h, false), both = gradient(p, h, true);
    check_close(alone.first, both.first);
    check_close(alone.second, both.second);
  }
}

}  // namespace parlo
