// Sums, means, softmax, cross-entropy, normalisation.
#include <cmath>

#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

Tensor plain_sum(const Tensor& x, const std::vector<bool>& summed, bool keep) {
  Shape kept = x.shape(), out;
  for (int i = 0; i < x.rank(); ++i) {
    if (summed[i]) kept[i] = 1;
    if (!summed[i] || keep) out.push_back(kept[i]);
  }
  std::vector<double> y(static_cast<size_t>(kept.numel()), 0.0);
  const std::vector<double> v = x.to_vector();
  for (int64_t flat = 0; flat < x.numel(); ++flat) {
    int64_t rest = flat, index = 0, step = 1;
    for (int i = x.rank() - 1; i >= 0; --i) {
      index += (summed[i] ? 0 : rest % x.dim(i)) * step;
      step *= kept[i];
      rest /= x.dim(i);
    }
    y[index] += v[flat];
  }
  return Tensor::from(y, out);
}

TEST_CASE("sum and mean over every choice of axes") {
  for (const Shape& shape : {Shape{2, 3, 4}, Shape{1, 5, 1}, Shape{3, 1, 7}})
    for (int flags = 1; flags < 8; ++flags)
      for (bool keep : {false, true}) {
        const Tensor x = normal64(shape, 1);
        std::vector<int> axes;
        std::vector<bool> summed;
        double count = 1;
        for (int i = 0; i < 3; ++i) {
          summed.push_back((flags >> i & 1) != 0);
          if (!summed[i]) continue;
          axes.push_back(i == 1 ? -2 : i);
          count *= static_cast<double>(shape[i]);
        }
        const Tensor expected = plain_sum(x, summed, keep);
        const Op total = [=](std::span<const Var> in) { return sum(in[0], axes, keep); };
        const Op average = [=](std::span<const Var> in) { return mean(in[0], axes, keep); };
        check_close(check_op("sum", total, {x}), expected);
        Tensor scaled = expected.clone();
        for (double& v : scaled.span<double>()) v /= count;
        check_close(check_op("mean", average, {x}), scaled);
      }
}

TEST_CASE("sum of all, of a scalar, of nothing") {
  const Op all = [](std::span<const Var> in) { return sum(in[0]); };
  const Op average = [](std::span<const Var> in) { return mean(in[0]); };
  const Tensor x = normal64({3, 5}, 1), one = normal64({}, 2);
  check_close(check_op("sum", all, {x}), plain_sum(x, {true, true}, false));
  CHECK(check_op("sum", all, {one}).item() == one.item());
  CHECK(check_op("mean", average, {one}).item() == one.item());
  CHECK(check_op("sum", all, {normal64({0, 3}, 1)}).item() == 0);
  const Op rows = [](std::span<const Var> in) { return sum(in[0], {0}); };
  CHECK(same_bits(check_op("sum", rows, {normal64({0, 3}, 1)}), Tensor::zeros({3}, DType::f64)));
  check_op("sum", rows, {normal64({3, 0}, 1)});
  CHECK(contains(message_of([&] { sum(Var(x), {2}); }), "axis out of range"));
}

TEST_CASE("softmax") {
  for (const Shape& shape :
       {Shape{2, 3, 5}, Shape{1}, Shape{7}, Shape{4, 1}, Shape{0, 3}, Shape{3, 37}}) {
    const Tensor x = normal64(shape, 1, 2);
    std::vector<double> y = x.to_vector();
    const int64_t C = shape[-1];
    for (size_t row = 0; row < y.size(); row += C) {
      double total = 0;
      for (int64_t c = 0; c < C; ++c) total += y[row + c] = std::exp(y[row + c]);
      for (int64_t c = 0; c < C; ++c) y[row + c] /= total;
    }
    const Op op = [](std::span<const Var> in) { return softmax(in[0]); };
    check_close(check_op("softmax", op, {x}), Tensor::from(y, shape));
  }
  const Tensor large = Tensor::from<float>({1000, 1000, -1000}, {3});
  CHECK((softmax(Var(large)).value().to_vector() == std::vector<double>{0.5, 0.5, 0}));
}

TEST_CASE("cross_entropy with ignored targets") {
  struct Case {
    Shape shape;
    std::vector<int64_t> targets;
  };
  for (const Case& c : {Case{{2, 3, 5}, {0, 4, -7, 2, 2, -7}}, Case{{3}, {1}}, Case{{0, 3}, {}},
                        Case{{2, 1}, {0, 0}}, Case{{1, 37}, {36}}}) {
    const Tensor x = normal64(c.shape, 1, 2);
    Shape rows = c.shape;
    rows.erase(rows.rank() - 1);
    const Tensor targets = Tensor::from(c.targets, rows);
    const std::vector<double> v = x.to_vector();
    const int64_t C = c.shape[-1];
    std::vector<double> expected;
    for (size_t r = 0; r < c.targets.size(); ++r) {
      double total = 0;
      for (int64_t i = 0; i < C; ++i) total += std::exp(v[r * C + i]);
      const bool ignored = c.targets[r] == -7;
      expected.push_back(ignored ? 0 : std::log(total) - v[r * C + c.targets[r]]);
    }
    const Op op = [targets](std::span<const Var> in) { return cross_entropy(in[0], targets, -7); };
    check_close(check_op("cross_entropy", op, {x}), Tensor::from(expected, rows));
  }
}

TEST_CASE("cross_entropy refuses targets that are no class") {
  const Var x(normal64({2, 3}, 1));
  for (int64_t bad : {-1, 3}) {
    const Tensor targets = Tensor::from<int64_t>({0, bad}, {2});
    CHECK(contains(message_of([&] { cross_entropy(x, targets); }), std::to_string(bad)));
  }
  CHECK(contains(message_of([&] { cross_entropy(x, Tensor::zeros({2})); }), "i64"));
  CHECK(contains(message_of([&] { cross_entropy(x, Tensor::zeros({3}, DType::i64)); }), "targets"));
}

TEST_CASE("l2_normalize") {
  for (const Shape& shape : {Shape{2, 3, 5}, Shape{3}, Shape{0, 3}}) {
    const Tensor x = normal64(shape, 1);
    std::vector<double> y = x.to_vector();
    const int64_t C = shape[-1];
    for (size_t row = 0; row < y.size(); row += C) {
      double squares = 0;
      for (int64_t c = 0; c < C; ++c) squares += y[row + c] * y[row + c];
      for (int64_t c = 0; c < C; ++c) y[row + c] /= std::sqrt(squares);
    }
    const Op op = [](std::span<const Var> in) { return l2_normalize(in[0]); };
    check_close(check_op("l2_normalize", op, {x}), Tensor::from(y, shape));
  }
}

}  // namespace
}  // namespace parlo
