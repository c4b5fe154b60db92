// Element-wise ops against plain loops and finite differences.
#include <cmath>

#include "tests/autograd/gradcheck.h"
#include "tests/plain_activation.h"

namespace parlo {
namespace {

using namespace test;

// Element of t that lands at flat index `at` of the broadcast shape.
double broadcast_at(const std::vector<double>& t, const Shape& shape, const Shape& out,
                    int64_t at) {
  int64_t index = 0, step = 1;
  for (int i = 1; i <= out.rank(); ++i) {
    const int64_t position = at % out[-i];
    at /= out[-i];
    if (i > shape.rank()) continue;
    if (shape[-i] != 1) index += position * step;
    step *= shape[-i];
  }
  return t[static_cast<size_t>(index)];
}

template <class F>
Tensor loop(const Tensor& a, const Tensor& b, F&& f) {
  const Shape shape = broadcast_shapes(a.shape(), b.shape());
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  std::vector<double> out;
  for (int64_t i = 0; i < shape.numel(); ++i)
    out.push_back(f(broadcast_at(x, a.shape(), shape, i), broadcast_at(y, b.shape(), shape, i)));
  return Tensor::from(out, shape);
}

template <class F>
Tensor loop(const Tensor& x, F&& f) {
  std::vector<double> out = x.to_vector();
  for (double& value : out) value = f(value);
  return Tensor::from(out, x.shape());
}

struct Shapes {
  Shape a, b;
};
const std::vector<Shapes>& broadcasts() {
  static const std::vector<Shapes> all{
      {{3, 4}, {3, 4}},
      {{3, 5}, {5}},
      {{3, 1}, {1, 5}},
      {{2, 3, 5}, {3, 1}},
      {{}, {3}},
      {{1}, {1}},
      {{}, {}},
      {{0, 4}, {4}},
      {{0, 4}, {1, 1}},
      {{2, 1}, {2, 0}},
      {{5, 1, 7}, {1, 3, 1}},
      {{1, 7}, {2, 3, 1, 7}},
      {{17}, {17}},
      {{2, 3, 1}, {3, 33}},
      {{2, 1, 3, 1}, {4, 1, 5}},
  };
  return all;
}

TEST_CASE("binary ops broadcast, forward and back") {
  const auto f = [](Var (*op)(const Var&, const Var&)) {
    return [op](std::span<const Var> in) { return op(in[0], in[1]); };
  };
  for (const Shapes& s : broadcasts()) {
    const Tensor a = normal64(s.a, 1), b = away_from_zero(s.b, 2, false);
    check_close(check_op("add", f(add), {a, b}),
                loop(a, b, [](double x, double y) { return x + y; }));
    check_close(check_op("sub", f(sub), {a, b}),
                loop(a, b, [](double x, double y) { return x - y; }));
    check_close(check_op("sub", f(sub), {b, a}),
                loop(b, a, [](double x, double y) { return x - y; }));
    check_close(check_op("mul", f(mul), {a, b}),
                loop(a, b, [](double x, double y) { return x * y; }));
    check_close(check_op("div", f(div), {a, b}),
                loop(a, b, [](double x, double y) { return x / y; }));
  }
}

TEST_CASE("binary ops refuse what does not broadcast or mixes dtypes") {
  const Var a(normal64({2, 3}, 1)), b(normal64({2, 4}, 2)), c(random_tensor({2, 3}, 3));
  CHECK(contains(message_of([&] { add(a, b); }), "(2, 3) and (2, 4) do not broadcast"));
  CHECK(contains(message_of([&] { mul(a, c); }), "dtypes differ"));
}

struct UnaryCase {
  const char* name;
  Unary f;
  double (*plain)(double);
  bool positive;
};

TEST_CASE("unary ops") {
  const UnaryCase cases[] = {
      {"neg", Unary::neg, [](double x) { return -x; }, false},
      {"exp", Unary::exp, [](double x) { return std::exp(x); }, false},
      {"log", Unary::log, [](double x) { return std::log(x); }, true},
      {"sqrt", Unary::sqrt, [](double x) { return std::sqrt(x); }, true},
      {"rsqrt", Unary::rsqrt, [](double x) { return 1 / std::sqrt(x); }, true},
      {"square", Unary::square, [](double x) { return x * x; }, false},
      {"abs", Unary::abs, [](double x) { return std::abs(x); }, false},
      {"sin", Unary::sin, [](double x) { return std::sin(x); }, false},
      {"cos", Unary::cos, [](double x) { return std::cos(x); }, false},
      {"tanh", Unary::tanh, [](double x) { return std::tanh(x); }, false},
      {"sigmoid", Unary::sigmoid, [](double x) { return 1 / (1 + std::exp(-x)); }, false},
      {"relu", Unary::relu, [](double x) { return std::max(x, 0.0); }, false},
  };
  for (const UnaryCase& c : cases)
    for (const Shape& shape : {Shape{}, Shape{1}, Shape{7}, Shape{3, 11}, Shape{2, 0, 3}}) {
      const Tensor x = away_from_zero(shape, 5, c.positive);
      const Op op = [&c](std::span<const Var> in) { return unary(c.f, in[0]); };
      check_close(check_op(c.name, op, {x}), loop(x, c.plain));
    }
}

TEST_CASE("activations") {
  for (Activation f : {Activation::none, Activation::gelu_tanh, Activation::gelu_erf,
                       Activation::quick_gelu, Activation::silu})
    for (const Shape& shape : {Shape{}, Shape{2, 19}, Shape{0}}) {
      const Tensor x = normal64(shape, 6, 2);
      const Op op = [f](std::span<const Var> in) { return activation(f, in[0]); };
      check_close(check_op("activation", op, {x}),
                  loop(x, [f](double v) { return plain_activation(f, v); }));
    }
}

TEST_CASE("gated linear units") {
  for (Activation f : {Activation::silu, Activation::gelu_tanh, Activation::gelu_erf})
    for (const Shape& shape : {Shape{6}, Shape{2, 3, 10}, Shape{0, 4}}) {
      const Tensor x = normal64(shape, 6, 2);
      const int64_t n = shape[-1] / 2;
      const Op op = [f](std::span<const Var> in) { return glu(f, in[0]); };
      const Var v(x);
      const Var want = mul(activation(f, slice(v, -1, 0, n)), slice(v, -1, n, 2 * n));
      check_close(check_op("glu", op, {x}), want.value());
      const Op apart = [f](std::span<const Var> in) { return glu(f, in[0], in[1]); };
      const Tensor a = x.slice(-1, 0, n).contiguous(), b = x.slice(-1, n, 2 * n).contiguous();
      check_close(check_op("glu", apart, {a, b}), want.value());
    }
}

TEST_CASE("activations far out stay finite") {
  const Tensor x = Tensor::from<float>({-1e4f, -200, -90, 90, 200, 1e4f}, {6});
  for (Activation f :
       {Activation::gelu_tanh, Activation::gelu_erf, Activation::quick_gelu, Activation::silu}) {
    Var v(x, true);
    const Var y = activation(f, v);
    backward(sum(y));
    const std::vector<double> values = y.value().to_vector(), slopes = v.grad().to_vector();
    for (size_t i = 0; i < 6; ++i) {
      CHECK(values[i] == doctest::Approx(i < 3 ? 0 : x.to_vector()[i]));
      CHECK(slopes[i] == doctest::Approx(i < 3 ? 0 : 1));
    }
  }
}

TEST_CASE("affine") {
  for (const Shape& shape : {Shape{}, Shape{3, 5}, Shape{0, 2}}) {
    const Tensor x = normal64(shape, 7);
    const Op op = [](std::span<const Var> in) { return affine(in[0], -1.5, 0.25); };
    check_close(check_op("affine", op, {x}), loop(x, [](double v) { return -1.5 * v + 0.25; }));
  }
}

TEST_CASE("gate_residual uses one gate row a sample") {
  for (const Shape& shape : {Shape{2, 3, 5}, Shape{3, 7}, Shape{2, 2, 3, 4}, Shape{1, 1, 1},
                             Shape{2, 0, 3}, Shape{0, 3, 4}, Shape{2, 9, 33}}) {
    const int64_t B = shape[0], C = shape[-1];
    const Tensor residual = normal64(shape, 8), gate = normal64({B, C}, 9), y = normal64(shape, 10);
    std::vector<double> expected = residual.to_vector();
    const std::vector<double> g = gate.to_vector(), v = y.to_vector();
    const int64_t per_sample = B ? shape.numel() / B : 0;
    for (int64_t i = 0; i < shape.numel(); ++i) expected[i] += g[i / per_sample * C + i % C] * v[i];
    const Op op = [](std::span<const Var> in) { return gate_residual(in[0], in[1], in[2]); };
    check_close(check_op("gate_residual", op, {residual, gate, y}), Tensor::from(expected, shape));
  }
}

}  // namespace
}  // namespace parlo
