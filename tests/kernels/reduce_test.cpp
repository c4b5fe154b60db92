#include "kernels/reduce.h"

#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

const float kNaN = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

Tensor plain_sum_to(const Tensor& x, const Shape& shape) {
  const Tensor out = Tensor::zeros(shape, DType::f64);
  const auto values = x.to_vector();
  const Shape strides = contiguous_strides(shape);
  for (size_t i = 0; i < values.size(); ++i) {
    int64_t rest = static_cast<int64_t>(i), to = 0;
    for (int k = x.rank() - 1; k >= 0; --k) {
      const int64_t index = rest % x.dim(k);
      rest /= x.dim(k);
      if (shape[k] != 1) to += index * strides[k];
    }
    out.data<double>()[to] += values[i];
  }
  return out;
}

Tensor softmax(const Tensor& x) {
  Tensor y = Tensor::empty_like(x);
  cpu::softmax(x, y);
  return y;
}

struct Entropy {
  Tensor losses, lse;
};
Entropy cross_entropy(const Tensor& logits, const Tensor& targets) {
  Entropy e{Tensor::empty({logits.dim(0)}, logits.dtype()),
            Tensor::empty({logits.dim(0)}, logits.dtype())};
  cpu::cross_entropy(logits, targets, e.losses, e.lse);
  return e;
}

}  // namespace

TEST_CASE("sum_to over every set of axes") {
  for (Shape shape : {Shape{3, 5, 2, 7}, Shape{1, 40, 1, 33}, Shape{2, 1, 3, 70000}}) {
    const Tensor x = random_tensor(shape, 1), wide = x.to(DType::f64);
    for (unsigned mask = 0; mask < 16; ++mask) {
      Shape small = shape;
      for (int i = 0; i < 4; ++i)
        if (mask >> i & 1u) small[i] = 1;
      CAPTURE(mask);
      const Tensor out = Tensor::empty(small), out64 = Tensor::empty(small, DType::f64);
      cpu::sum_to(x, out);
      cpu::sum_to(wide, out64);
      check_close(out, plain_sum_to(x, small), 1e-6);
      check_close(out64, plain_sum_to(wide, small), 1e-12);
    }
  }
}

TEST_CASE("sum_to of rows and columns: any size, threads, NaN") {
  for (int64_t n : {1, 2, 15, 16, 17, 100}) {
    const Tensor x = random_tensor({n, 19}, 3), y = random_tensor({19, n}, 4);
    const Tensor a = Tensor::empty({1, 19}), b = Tensor::empty({19, 1}), c = Tensor::empty({1, n});
    cpu::sum_to(x, a);
    check_close(a, plain_sum_to(x, {1, 19}), 1e-6);
    cpu::sum_to(y, b);
    check_close(b, plain_sum_to(y, {19, 1}), 1e-6);
    cpu::sum_to(y, c);
    check_close(c, plain_sum_to(y, {1, n}), 1e-6);
  }
  const Tensor big = random_tensor({900, 130}, 5);
  check_thread_counts([&] {
    const Tensor a = Tensor::empty({1, 130}), b = Tensor::empty({900, 1}),
                 c = Tensor::empty({1, 1});
    cpu::sum_to(big, a);
    cpu::sum_to(big, b);
    cpu::sum_to(big, c);
    return std::vector<Tensor>{a, b, c, Tensor::full({1}, cpu::sum_squares(big), DType::f64),
                               Tensor::full({1}, cpu::dot(big, big), DType::f64)};
  });
  const Tensor empty = Tensor::empty({0, 3}), zero = Tensor::full({1, 3}, 9);
  cpu::sum_to(empty, zero);
  CHECK(cpu::sum(zero) == 0);
  big.data<float>()[5000] = kNaN;
  const Tensor a = Tensor::empty({1, 130});
  cpu::sum_to(big, a);
  CHECK(std::isnan(a.data<float>()[5000 % 130]));
  CHECK(!std::isnan(a.data<float>()[0]));
  CHECK(contains(message_of([&] { cpu::sum_to(big, Tensor::empty({2, 130})); }), "sum_to"));
  // A row's sum is the same alone.
  const Tensor rows = Tensor::empty({900, 1}), one = Tensor::empty({1, 1});
  cpu::sum_to(big, rows);
  cpu::sum_to(big.slice(0, 7, 8), one);
  CHECK(same_bits(one, rows.slice(0, 7, 8)));
}

TEST_CASE("sums of all elements") {
  const Tensor x = random_tensor({100001}, 1), y = random_tensor({100001}, 2);
  const auto vx = x.to_vector(), vy = y.to_vector();
  double sum = 0, squares = 0, dot = 0;
  for (size_t i = 0; i < vx.size(); ++i) {
    sum += vx[i];
    squares += vx[i] * vx[i];
    dot += vx[i] * vy[i];
  }
  CHECK(cpu::sum(x) == doctest::Approx(sum).epsilon(1e-10));
  CHECK(cpu::sum_squares(x) == doctest::Approx(squares).epsilon(1e-12));
  CHECK(cpu::dot(x, y) == doctest::Approx(dot).epsilon(1e-10));
  CHECK(cpu::sum(x.to(DType::f64)) == doctest::Approx(sum).epsilon(1e-10));
  CHECK(cpu::sum(Tensor::empty({0})) == 0);
  CHECK(std::isnan(cpu::sum_squares(Tensor::full({40}, kNaN))));
  // f32 would lose every one of these.
  const Tensor ones = Tensor::full({1 << 20}, 1);
  ones.data<float>()[0] = 1e9f;
  CHECK(cpu::sum(ones) == 1e9 + (1 << 20) - 1);
}

TEST_CASE("max_rows takes the first of equals and shows NaN") {
  for (int64_t C : {1, 3, 16, 40, 100}) {
    const Tensor x = random_tensor({50, C}, 1);
    const Tensor values = Tensor::empty({50}), indices = Tensor::empty({50}, DType::i64);
    cpu::max_rows(x, values, indices);
    for (int64_t r = 0; r < 50; ++r) {
      const float* row = x.data<float>() + r * C;
      const float* best = std::max_element(row, row + C);
      CHECK(values.data<float>()[r] == *best);
      CHECK(indices.data<int64_t>()[r] == best - row);
    }
  }
  const Tensor ties = Tensor::from(std::vector<float>{1, 5, 5, 2, kNaN, 3, -kInf, -kInf}, {4, 2});
  const Tensor indices = Tensor::empty({4}, DType::i64), values = Tensor::empty({4});
  cpu::max_rows(ties, values, indices);
  CHECK((indices.to_vector() == std::vector<double>{1, 0, 0, 0}));
  CHECK(std::isnan(values.data<float>()[2]));
  cpu::max_rows(ties, {}, indices);
  CHECK(contains(message_of([&] { cpu::max_rows(Tensor::empty({3, 0}), values, {}); }), "empty"));
}

TEST_CASE("softmax: plain loop, gradient, rows alone, threads") {
  for (int64_t C : {1, 2, 15, 16, 17, 77, 512, 1000}) {
    const Tensor x = random_tensor({11, C}, 1, DType::f64, 5);
    const Tensor y = softmax(x), y32 = softmax(x.to(DType::f32));
    const auto v = x.to(DType::f32).to_vector();
    std::vector<double> expected(v.size());
    for (int64_t r = 0; r < 11; ++r) {
      double sum = 0;
      for (int64_t c = 0; c < C; ++c) sum += std::exp(v[r * C + c]);
      for (int64_t c = 0; c < C; ++c) expected[r * C + c] = std::exp(v[r * C + c]) / sum;
    }
    check_close(y32, Tensor::from(expected, x.shape()), 2e-6);
    const Tensor x32 = x.to(DType::f32);
    CHECK(same_bits(softmax(x32.slice(0, 4, 5)), y32.slice(0, 4, 5)));
    if (C > 100) continue;
    const Tensor dy = random_tensor({11, C}, 2, DType::f64), dx = Tensor::empty_like(x);
    cpu::softmax_backward(y, dy, dx);
    check_close(dx, numeric_gradient(x, [&] { return weighted_sum(softmax(x), dy); }),
                C == 1 ? INFINITY : 1e-6);
    const Tensor dx32 = Tensor::empty_like(x32), one = Tensor::empty({1, C});
    cpu::softmax_backward(y32, dy.to(DType::f32), dx32);
    if (C > 1) check_close(dx32, dx);
    cpu::softmax_backward(y32.slice(0, 4, 5), dy.to(DType::f32).slice(0, 4, 5), one);
    CHECK(same_bits(one, dx32.slice(0, 4, 5)));
  }
  const Tensor big = random_tensor({700, 333}, 3);
  check_thread_counts([&] {
    const Tensor y = softmax(big), dx = Tensor::empty_like(big);
    cpu::softmax_backward(y, big, dx);
    return std::vector<Tensor>{y, dx};
  });
}

TEST_CASE("softmax of extreme rows") {
  const Tensor y = softmax(Tensor::from(std::vector<float>{1e30f, 1e30f, -1e30f, 0}, {2, 2}));
  CHECK((y.to_vector() == std::vector<double>{0.5, 0.5, 0, 1}));
  const Tensor masked = softmax(Tensor::from(std::vector<float>{-kInf, 3, -kInf, 3}, {1, 4}));
  CHECK((masked.to_vector() == std::vector<double>{0, 0.5, 0, 0.5}));
  const Tensor bad = softmax(Tensor::from(std::vector<float>{1, kNaN, 2, 1, 2, 3}, {2, 3}));
  for (int i = 0; i < 3; ++i) CHECK(std::isnan(bad.data<float>()[i]));
  for (int i = 3; i < 6; ++i) CHECK(!std::isnan(bad.data<float>()[i]));
  const Tensor wide = Tensor::zeros({1, 100});
  wide.data<float>()[99] = kNaN;
  CHECK(std::isnan(softmax(wide).data<float>()[0]));
  CHECK(softmax(Tensor::empty({0, 4})).numel() == 0);
}

TEST_CASE("cross entropy: plain loop, gradient, ignored and bad targets") {
  const int64_t R = 9, C = 37;
  const Tensor logits = random_tensor({R, C}, 1, DType::f64, 3);
  std::vector<int64_t> ids;
  for (int64_t r = 0; r < R; ++r) ids.push_back(r == 4 ? -100 : (r * 11) % C);
  const Tensor targets = Tensor::from(ids, {R});
  const Entropy e = cross_entropy(logits, targets);
  for (int64_t r = 0; r < R; ++r) {
    double sum = 0;
    for (int64_t c = 0; c < C; ++c) sum += std::exp(logits.data<double>()[r * C + c]);
    CHECK(e.lse.data<double>()[r] == doctest::Approx(std::log(sum)).epsilon(1e-12));
    const double expected = r == 4 ? 0 : std::log(sum) - logits.data<double>()[r * C + ids[r]];
    CHECK(e.losses.data<double>()[r] == doctest::Approx(expected).epsilon(1e-12));
  }
  const Tensor dlosses = random_tensor({R}, 2, DType::f64), dlogits = Tensor::empty_like(logits);
  cpu::cross_entropy_backward(logits, targets, e.lse, dlosses, dlogits);
  check_close(
      dlogits,
      numeric_gradient(
          logits, [&] { return weighted_sum(cross_entropy(logits, targets).losses, dlosses); }),
      1e-6);
  const Tensor l32 = logits.to(DType::f32), d32 = Tensor::empty_like(l32);
  const Entropy e32 = cross_entropy(l32, targets);
  check_close(e32.losses, e.losses);
  cpu::cross_entropy_backward(l32, targets, e32.lse, dlosses.to(DType::f32), d32);
  check_close(d32, dlogits);
  const Entropy one = cross_entropy(l32.slice(0, 2, 3), targets.slice(0, 2, 3));
  CHECK(same_bits(one.losses, e32.losses.slice(0, 2, 3)));
  ids[3] = C;
  const std::string message = message_of([&] { cross_entropy(logits, Tensor::from(ids, {R})); });
  CHECK(contains(message, "target 37 of row 3"));
  CHECK(cross_entropy(Tensor::empty({0, 4}), Tensor::empty({0}, DType::i64)).lse.numel() == 0);
}

TEST_CASE("cross entropy shows NaN and does not depend on threads") {
  const Tensor logits = random_tensor({500, 300}, 1), targets = Tensor::zeros({500}, DType::i64);
  check_thread_counts([&] {
    const Entropy e = cross_entropy(logits, targets);
    const Tensor d = Tensor::empty_like(logits);
    cpu::cross_entropy_backward(logits, targets, e.lse, e.losses, d);
    return std::vector<Tensor>{e.losses, e.lse, d};
  });
  logits.data<float>()[5 * 300 + 299] = kNaN;
  const Entropy e = cross_entropy(logits, targets);
  CHECK(std::isnan(e.losses.data<float>()[5]));
  CHECK(std::isfinite(e.losses.data<float>()[4]));
}
