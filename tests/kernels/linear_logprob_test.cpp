#include "kernels/linear_logprob.h"

#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

constexpr int64_t kIgnore = -100;

struct Head {
  Tensor x, w, targets;
  LinearLogProbArgs args;

  Head(int64_t T, int64_t V, int64_t K, double temperature = 1, DType dtype = DType::f64)
      : x(random_tensor({T, K}, 1, DType::f32).to(dtype)),
        w(random_tensor({V, K}, 2, DType::f32).to(dtype)) {
    std::vector<int64_t> ids;
    for (int64_t r = 0; r < T; ++r) ids.push_back(r % 4 == 3 ? kIgnore : (r * 977 + V - 1) % V);
    targets = Tensor::from(ids, {T});
    args.temperature = temperature;
  }
  Head as(DType of_x, DType of_w) const {
    Head other = *this;
    other.x = x.to(of_x), other.w = w.to(of_w);
    return other;
  }
  Head rows(int64_t begin, int64_t end) const {
    Head other = *this;
    other.x = x.slice(0, begin, end), other.targets = targets.slice(0, begin, end);
    return other;
  }
};

struct Outputs {
  Tensor log_prob, entropy, lse;
  explicit Outputs(const Head& h)
      : log_prob(Tensor::full({h.x.dim(0)}, std::nan(""), h.x.dtype())),
        entropy(log_prob.clone()),
        lse(log_prob.clone()) {}
};

Outputs forward(const Head& h) {
  const Outputs y(h);
  cpu::linear_log_prob(h.x, h.w, h.targets, h.args, y.log_prob, y.entropy, y.lse);
  return y;
}

// With weights of the outputs that depend on the row.
LinearLogProbGrads backward(const Head& h) {
  const Outputs y = forward(h);
  const Shape rows{h.x.dim(0)};
  LinearLogProbGrads g;
  g.d_log_prob = random_tensor(rows, 3, DType::f32).to(h.x.dtype());
  g.d_entropy = random_tensor(rows, 4, DType::f32).to(h.x.dtype());
  g.dx = Tensor::full(h.x.shape(), std::nan(""), h.x.dtype());
  g.dw = Tensor::full(h.w.shape(), std::nan(""), h.x.dtype());
  cpu::linear_log_prob_backward(h.x, h.w, h.targets, h.args, y.entropy, y.lse, g);
  return g;
}

// All logits at once, in f64.
Outputs plain(const Head& h) {
  const int64_t T = h.x.dim(0), V = h.w.dim(0), K = h.x.dim(1);
  const std::vector<double> x = h.x.to_vector(), w = h.w.to_vector();
  const Outputs y(h.as(DType::f64, DType::f64));
  for (int64_t r = 0; r < T; ++r) {
    std::vector<double> z(static_cast<size_t>(V));
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t k = 0; k < K; ++k) z[v] += x[r * K + k] * w[v * K + k];
      z[v] /= h.args.temperature;
    }
    const double max = *std::max_element(z.begin(), z.end());
    double sum = 0, entropy = 0;
    for (const double a : z) sum += std::exp(a - max);
    for (const double a : z) {
      const double log_p = a - max - std::log(sum);
      entropy -= std::exp(log_p) * log_p;
    }
    const int64_t target = h.targets.data<int64_t>()[r];
    const bool ignored = target == h.args.ignore_index;
    y.lse.data<double>()[r] = max + std::log(sum);
    y.log_prob.data<double>()[r] = ignored ? 0 : z[target] - max - std::log(sum);
    y.entropy.data<double>()[r] = ignored ? 0 : entropy;
  }
  return y;
}

void check_outputs(const Outputs& got, const Outputs& expected, double limit) {
  check_close(got.log_prob, expected.log_prob, limit);
  check_close(got.entropy, expected.entropy, limit);
  check_close(got.lse, expected.lse, limit);
}

// T, V, K: one tile, several of rows, several of columns with a rest, one class.
const Shape kSizes[] = {{7, 37, 5}, {1030, 3, 4}, {5, 2100, 9}, {3, 1024, 6}, {4, 1, 3}, {0, 9, 2}};

}  // namespace

TEST_CASE("log-prob and entropy against all logits at once") {
  for (const Shape& s : kSizes) {
    for (const double temperature : {1.0, 0.7}) {
      INFO(to_string(s), " at ", temperature);
      const Head h(s[0], s[1], s[2], temperature);
      const Outputs expected = plain(h);
      check_outputs(forward(h), expected, tolerance(DType::f64));
      const Head single = h.as(DType::f32, DType::f32), half = h.as(DType::f32, DType::bf16);
      check_outputs(forward(single), expected, tolerance(DType::f32));
      // The product may round x to bf16 as well.
      check_outputs(forward(half), plain(half), 1e-2);
    }
  }
}

TEST_CASE("gradients of log-prob and entropy by finite differences") {
  for (const Shape& s : {Shape{5, 11, 3}, Shape{3, 1030, 2}, Shape{514, 2, 1}, Shape{2, 1, 3}}) {
    INFO(to_string(s));
    const Head h(s[0], s[1], s[2], 0.8);
    const LinearLogProbGrads g = backward(h);
    const auto loss = [&] {
      const Outputs y = forward(h);
      return weighted_sum(y.log_prob, g.d_log_prob) + weighted_sum(y.entropy, g.d_entropy);
    };
    if (s[1] == 1) {
      CHECK(same_values(g.dx, Tensor::zeros(h.x.shape(), DType::f64)));
      CHECK(same_values(g.dw, Tensor::zeros(h.w.shape(), DType::f64)));
      continue;
    }
    const double limit = 2e-7;
    check_close(g.dx, numeric_gradient(h.x, loss), limit);
    if (s[1] < 100) check_close(g.dw, numeric_gradient(h.w, loss), limit);
    const LinearLogProbGrads single = backward(h.as(DType::f32, DType::f32));
    check_close(single.dx, g.dx);
    check_close(single.dw, g.dw);
    const Head half = h.as(DType::f32, DType::bf16);
    const LinearLogProbGrads rounded = backward(half.as(DType::f64, DType::f64));
    check_close(backward(half).dx, rounded.dx, 2e-2);
    check_close(backward(half).dw, rounded.dw, 2e-2);
  }
}

TEST_CASE("gradients of log-prob: what is not given or not asked for; ignored rows") {
  const Head h(9, 40, 6, 1.3);
  const Outputs y = forward(h);
  const LinearLogProbGrads all = backward(h);
  const auto run = [&](LinearLogProbGrads g) {
    cpu::linear_log_prob_backward(h.x, h.w, h.targets, h.args, y.entropy, y.lse, g);
    return g;
  };
  const auto fresh = [](const Tensor& t) { return Tensor::full(t.shape(), 7, t.dtype()); };
  CHECK(same_bits(run({all.d_log_prob, all.d_entropy, fresh(all.dx), {}}).dx, all.dx));
  CHECK(same_bits(run({all.d_log_prob, all.d_entropy, {}, fresh(all.dw)}).dw, all.dw));
  const Tensor zero = Tensor::zeros({9}, DType::f64);
  CHECK(same_values(run({all.d_log_prob, {}, fresh(all.dx), {}}).dx,
                    run({all.d_log_prob, zero, fresh(all.dx), {}}).dx));
  CHECK(same_values(run({{}, all.d_entropy, fresh(all.dx), {}}).dx,
                    run({zero, all.d_entropy, fresh(all.dx), {}}).dx));
  CHECK(same_values(all.dx.slice(0, 3, 4), Tensor::zeros({1, 6}, DType::f64)));
  const Head none(0, 5, 2);
  CHECK(same_values(backward(none).dw, Tensor::zeros({5, 2}, DType::f64)));
}

TEST_CASE("log-prob of extreme logits") {
  // Logits 1e4, -1e4 and near each other around 1e4.
  const Tensor x = Tensor::from<double>({1e4, 1, 1e4, 0, 1e4, 1}, {3, 2});
  const Tensor w = Tensor::from<double>({1, 0, -1, 0, 1, 0.5}, {3, 2});
  Head h(3, 3, 2);
  h.x = x, h.w = w, h.targets = Tensor::from<int64_t>({1, 0, 2}, {3});
  const Outputs got = forward(h), single = forward(h.as(DType::f32, DType::f32));
  check_outputs(got, plain(h), tolerance(DType::f64));
  check_outputs(single, plain(h), tolerance(DType::f32));
  const Tensor dx = backward(h.as(DType::f32, DType::f32)).dx;
  for (const double value : dx.to_vector()) CHECK(std::isfinite(value));
  // A logit that overflowed to -infinity has probability 0.
  Head over(1, 2, 1, 1, DType::f32);
  over.x.fill(1e30), over.w.fill(0), over.w.slice(0, 1, 2).fill(-1e30);
  over.targets.fill(0);
  CHECK(forward(over).log_prob.item() == 0);
  CHECK(forward(over).entropy.item() == 0);
  const LinearLogProbGrads g = backward(over);
  CHECK(g.dw.slice(0, 1, 2).item() == 0);
  over.x.fill(std::nan(""));
  CHECK(std::isnan(forward(over).log_prob.item()));
  CHECK(std::isnan(forward(over).entropy.item()));
}

TEST_CASE("log-prob: a row's bits depend neither on its batch nor on threads") {
  const Head h = Head(700, 1500, 7).as(DType::f32, DType::f32);
  const Outputs all = forward(h);
  for (const int64_t r : {0, 511, 512, 699}) {
    const Outputs one = forward(h.rows(r, r + 1));
    CHECK(same_bits(one.log_prob, all.log_prob.slice(0, r, r + 1)));
    CHECK(same_bits(one.entropy, all.entropy.slice(0, r, r + 1)));
  }
  check_thread_counts([&] {
    const Outputs y = forward(h);
    const LinearLogProbGrads g = backward(h);
    return std::vector<Tensor>{y.log_prob, y.entropy, y.lse, g.dx, g.dw};
  });
}

TEST_CASE("log-prob: bad targets are named, what does not fit is refused") {
  Head h(3, 4, 2);
  const auto message = [&] { return message_of([&] { forward(h); }); };
  h.targets = Tensor::from<int64_t>({0, 4, -1}, {3});
  CHECK(contains(message(), "target 4 of row 1 is outside [0, 4)"));
  h.args.ignore_index = 4;
  CHECK(contains(message(), "target -1 of row 2 is outside [0, 4)"));
  h.targets = Tensor::from<int64_t>({0, 1, 2}, {3});
  h.args.temperature = 0;
  CHECK(contains(message(), "temperature is 0, expected above 0"));
  h.args.temperature = 1;
  h.w = Tensor::zeros({4, 3}, DType::f64);
  CHECK(contains(message(), "expected (T, K) and (V, K)"));
  h.w = Tensor::zeros({0, 2}, DType::f64);
  CHECK(contains(message(), "gives no logits"));
  h.w = Tensor::zeros({4, 2}, DType::bf16);
  CHECK(contains(message(), "w has dtype bf16, expected f64"));
}
