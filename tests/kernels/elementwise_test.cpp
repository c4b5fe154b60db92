#include "kernels/elementwise.h"

#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

constexpr Unary kUnaries[] = {Unary::neg,   Unary::exp,    Unary::log,     Unary::sqrt,
                              Unary::rsqrt, Unary::square, Unary::abs,     Unary::sin,
                              Unary::cos,   Unary::tanh,   Unary::sigmoid, Unary::relu};
constexpr Activation kActivations[] = {Activation::none, Activation::gelu_tanh,
                                       Activation::gelu_erf, Activation::quick_gelu,
                                       Activation::silu};
const float kNaN = std::numeric_limits<float>::quiet_NaN();
const float kInf = std::numeric_limits<float>::infinity();

long double plain(Unary f, long double x) {
  switch (f) {
    case Unary::neg:
      return -x;
    case Unary::exp:
      return std::exp(x);
    case Unary::log:
      return std::log(x);
    case Unary::sqrt:
      return std::sqrt(x);
    case Unary::rsqrt:
      return 1 / std::sqrt(x);
    case Unary::square:
      return x * x;
    case Unary::abs:
      return std::abs(x);
    case Unary::sin:
      return std::sin(x);
    case Unary::cos:
      return std::cos(x);
    case Unary::tanh:
      return std::tanh(x);
    case Unary::sigmoid:
      return 1 / (1 + std::exp(-x));
    case Unary::relu:
      return x > 0 ? x : 0;
  }
  return 0;
}

long double plain(Activation f, long double x) {
  switch (f) {
    case Activation::none:
      return x;
    case Activation::gelu_tanh:
      return 0.5L * x *
             (1 + std::tanh(std::sqrt(2 / 3.14159265358979323846L) * (x + 0.044715L * x * x * x)));
    case Activation::gelu_erf:
      return 0.5L * x * (1 + std::erf(x / std::sqrt(2.0L)));
    case Activation::quick_gelu:
      return x / (1 + std::exp(-1.702L * x));
    case Activation::silu:
      return x / (1 + std::exp(-x));
  }
  return 0;
}

bool needs_positive(Unary f) {
  return f == Unary::log || f == Unary::sqrt || f == Unary::rsqrt;
}

// Values over many magnitudes, both signs, and a length that leaves a part of a vector.
Tensor sweep(bool positive, float largest) {
  std::vector<float> values;
  for (float m = 1e-30f; m < largest; m *= 1.17f) {
    values.push_back(m);
    if (!positive) values.push_back(-m);
  }
  for (int i = 1; i < 2000; ++i) {
    const float v = largest * static_cast<float>(i) / 2000;
    values.push_back(v);
    if (!positive) values.push_back(-v);
  }
  values.push_back(1);
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

// Largest |y - expected| / max(|expected|, floor); below 2^-126 zero is expected.
template <class F>
double worst_error(F f, const Tensor& x, const Tensor& y, double floor) {
  double worst = 0;
  for (int64_t i = 0; i < x.numel(); ++i) {
    double e = static_cast<double>(plain(f, x.data<float>()[i]));
    if (std::abs(e) < double{std::numeric_limits<float>::min()}) e = 0;
    if (std::abs(e) > std::numeric_limits<float>::max()) {
      if (y.data<float>()[i] != static_cast<float>(e)) worst = kInf;
      continue;
    }
    const double error =
        std::abs(y.data<float>()[i] - e) / std::max(std::abs(e), std::max(floor, 1e-37));
    if (!(error <= worst)) worst = error;
  }
  return worst;
}

Tensor apply(Unary f, const Tensor& x) {
  Tensor y = Tensor::empty_like(x);
  cpu::unary(f, x, y);
  return y;
}
Tensor apply(Activation f, const Tensor& x) {
  Tensor y = Tensor::empty_like(x);
  cpu::activation(f, x, y);
  return y;
}

float at(Unary f, float x) {
  return apply(f, Tensor::full({1}, x)).data<float>()[0];
}
float at(Activation f, float x) {
  return apply(f, Tensor::full({1}, x)).data<float>()[0];
}

Tensor broadcast_plain(Binary f, const Tensor& a, const Tensor& b) {
  const auto va = a.to_vector(), vb = b.to_vector();
  std::vector<double> out(va.size());
  for (size_t i = 0; i < out.size(); ++i) {
    switch (f) {
      case Binary::add:
        out[i] = va[i] + vb[i];
        break;
      case Binary::sub:
        out[i] = va[i] - vb[i];
        break;
      case Binary::mul:
        out[i] = va[i] * vb[i];
        break;
      case Binary::div:
        out[i] = va[i] / vb[i];
        break;
      case Binary::min:
        out[i] = std::min(va[i], vb[i]);
        break;
      case Binary::max:
        out[i] = std::max(va[i], vb[i]);
        break;
    }
  }
  return Tensor::from(out, a.shape());
}

}  // namespace

TEST_CASE("unary functions in f32 are within 1e-6") {
  for (Unary f : kUnaries) {
    CAPTURE(static_cast<int>(f));
    // Near a zero of sin or cos the error is relative to 1e-3.
    const bool wave = f == Unary::sin || f == Unary::cos;
    const Tensor x = sweep(needs_positive(f), wave ? 20000.f : 87.f);
    CHECK(worst_error(f, x, apply(f, x), wave ? 1e-3 : 0) <= 1e-6);
  }
}

TEST_CASE("activations in f32 are within 1e-6 of their scale") {
  for (Activation f : kActivations) {
    CAPTURE(static_cast<int>(f));
    const Tensor x = sweep(false, 30.f);
    // In the far negative tail 1 + erf and 1 + tanh cancel, for everybody; the result is small.
    CHECK(worst_error(f, x, apply(f, x), 0.2) <= 1e-6);
  }
}

TEST_CASE("unary gradients by finite differences") {
  for (Unary f : kUnaries) {
    CAPTURE(static_cast<int>(f));
    const Tensor x = random_tensor({37}, 1, DType::f64);
    if (needs_positive(f))
      for (double& v : x.span<double>()) v = 0.2 + std::abs(v);
    const Tensor dy = random_tensor({37}, 2, DType::f64), dx = Tensor::empty_like(x);
    cpu::unary_backward(f, x, apply(f, x), dy, dx);
    check_close(dx, numeric_gradient(x, [&] { return weighted_sum(apply(f, x), dy); }), 1e-7);
    const Tensor x32 = x.to(DType::f32), dx32 = Tensor::empty_like(x32);
    cpu::unary_backward(f, x32, apply(f, x32), dy.to(DType::f32), dx32);
    check_close(dx32, dx);
  }
}

TEST_CASE("activation gradients by finite differences") {
  for (Activation f : kActivations) {
    CAPTURE(static_cast<int>(f));
    const Tensor x = random_tensor({203}, 1, DType::f64, 3);
    const Tensor dy = random_tensor({203}, 2, DType::f64), dx = Tensor::empty_like(x);
    cpu::activation_backward(f, x, dy, dx);
    check_close(dx, numeric_gradient(x, [&] { return weighted_sum(apply(f, x), dy); }), 1e-7);
    const Tensor x32 = x.to(DType::f32), dx32 = Tensor::empty_like(x32);
    cpu::activation_backward(f, x32, dy.to(DType::f32), dx32);
    check_close(dx32, dx, 2e-6);
  }
}

TEST_CASE("extreme arguments") {
  CHECK(at(Unary::exp, kInf) == kInf);
  CHECK(at(Unary::exp, -kInf) == 0);
  CHECK(at(Unary::exp, 100) == kInf);
  CHECK(at(Unary::exp, -200) == 0);
  CHECK(at(Unary::exp, 0) == 1);
  CHECK(at(Unary::exp, 88.7f) == doctest::Approx(std::exp(double{88.7f})).epsilon(2e-6));
  CHECK(at(Unary::exp, -100) == 0);  // subnormal: flushed
  CHECK(at(Unary::log, 0) == -kInf);
  CHECK(at(Unary::log, kInf) == kInf);
  CHECK(at(Unary::log, 1) == 0);
  CHECK(std::isnan(at(Unary::log, -1)));
  CHECK(at(Unary::log, 1e-40f) == -kInf);  // subnormal: counts as 0
  CHECK(at(Unary::tanh, 50) == 1);
  CHECK(at(Unary::tanh, -kInf) == -1);
  CHECK(at(Unary::tanh, 0) == 0);
  CHECK(at(Unary::sigmoid, -kInf) == 0);
  CHECK(at(Unary::sigmoid, kInf) == 1);
  CHECK(at(Unary::sigmoid, 0) == 0.5f);
  CHECK(at(Unary::sqrt, 4) == 2);
  CHECK(at(Unary::rsqrt, 0) == kInf);
  CHECK(std::isnan(at(Unary::sin, kInf)));
  CHECK(at(Unary::sin, 1e6f) == doctest::Approx(std::sin(1e6)).epsilon(1e-4));
  CHECK(at(Unary::cos, -3e8f) == doctest::Approx(std::cos(double{-3e8f})).epsilon(1e-4));
  CHECK(at(Unary::relu, -kInf) == 0);
  for (Unary f : kUnaries) CHECK(std::isnan(at(f, kNaN)));
  for (Activation f : kActivations) {
    CAPTURE(static_cast<int>(f));
    CHECK(std::isnan(at(f, kNaN)));
    CHECK(at(f, kInf) == kInf);
    CHECK(at(f, 1e30f) == 1e30f);
    if (f != Activation::none) CHECK(std::abs(at(f, -1e30f)) == 0);
    const Tensor x = Tensor::from(std::vector<float>{1e30f, -1e30f, kNaN, 0}, {4});
    const Tensor dy = Tensor::full({4}, 1), dx = Tensor::empty({4});
    cpu::activation_backward(f, x, dy, dx);
    CHECK(dx.data<float>()[0] == 1);
    CHECK(dx.data<float>()[1] == (f == Activation::none ? 1 : 0));
    if (f != Activation::none) CHECK(std::isnan(dx.data<float>()[2]));
    if (f != Activation::none) CHECK(dx.data<float>()[3] == 0.5f);
    dy.fill(kNaN);
    cpu::activation_backward(f, x, dy, dx);
    for (float v : dx.span<float>()) CHECK(std::isnan(v));
  }
}

TEST_CASE("an element's bits do not depend on its place") {
  const Tensor x = random_tensor({100}, 9, DType::f32, 4);
  const auto shifted = [&](auto f) {
    const Tensor y = apply(f, x);
    for (int64_t begin : {1, 7, 16, 99}) {
      const Tensor part = x.slice(0, begin, 100).clone();
      CHECK(same_bits(apply(f, part), y.slice(0, begin, 100)));
    }
  };
  for (Unary f : kUnaries) shifted(f);
  for (Activation f : kActivations) {
    shifted(f);
    const Tensor dx = Tensor::empty_like(x), one = Tensor::empty({1});
    cpu::activation_backward(f, x, x, dx);
    for (int64_t i = 0; i < 100; i += 33) {
      cpu::activation_backward(f, x.slice(0, i, i + 1), x.slice(0, i, i + 1), one);
      CHECK(same_bits(one, dx.slice(0, i, i + 1)));
    }
  }
}

TEST_CASE("maps in place, on views, empty, for any number of threads") {
  const Tensor x = random_tensor({5, 20}, 3);
  const Tensor expected = apply(Activation::silu, x);
  const Tensor same = x.clone();
  cpu::activation(Activation::silu, same, same);
  CHECK(same_bits(same, expected));
  CHECK(contains(message_of([&] { apply(Unary::exp, x.transpose(0, 1)); }), "contiguous"));
  CHECK(apply(Unary::exp, Tensor::empty({0, 3})).numel() == 0);
  const Tensor big = random_tensor({100003}, 4), dy = random_tensor({100003}, 5);
  check_thread_counts([&] {
    const Tensor dx = Tensor::empty_like(big);
    cpu::activation_backward(Activation::gelu_tanh, big, dy, dx);
    return std::vector<Tensor>{apply(Activation::gelu_erf, big), apply(Unary::exp, big), dx};
  });
}

TEST_CASE("binary over broadcast and strided views") {
  const Shape shape = {3, 4, 5, 7};
  const Tensor full = random_tensor(shape, 1), other = random_tensor(shape, 2);
  const Tensor turned = random_tensor({7, 5, 4, 3}, 3).permute({3, 2, 1, 0});
  std::vector<Tensor> operands = {full, turned};
  for (unsigned mask = 0; mask < 16; ++mask) {
    Shape small = shape;
    for (int i = 0; i < 4; ++i)
      if (mask >> i & 1u) small[i] = 1;
    operands.push_back(random_tensor(small, 10 + mask).expand(shape));
  }
  for (DType dtype : {DType::f32, DType::f64}) {
    for (const Tensor& view : operands) {
      // Converting keeps the values but not the strides, so f64 rebuilds a broadcast view.
      const Tensor b = dtype == DType::f32 ? view : view.to(dtype);
      for (Binary f :
           {Binary::add, Binary::sub, Binary::mul, Binary::div, Binary::min, Binary::max}) {
        const Tensor a = other.to(dtype), out = Tensor::empty(shape, dtype);
        cpu::binary(f, a, b, out);
        check_close(out, broadcast_plain(f, a, b), 1e-6);
        cpu::binary(f, b, a, out);
        check_close(out, broadcast_plain(f, b, a), 1e-6);
      }
    }
  }
  const Tensor scalar = Tensor::empty({});
  cpu::binary(Binary::mul, Tensor::full({}, 3), Tensor::full({}, 4), scalar);
  CHECK(scalar.item() == 12);
  const Tensor none = Tensor::empty({0, 4});
  cpu::binary(Binary::add, none, none, none);
}

TEST_CASE("binary aliases, keeps NaN, and does not depend on threads") {
  const Tensor a = random_tensor({300, 401}, 1), row = random_tensor({1, 401}, 2);
  const Tensor expected = Tensor::empty_like(a);
  cpu::binary(Binary::mul, a, row.expand(a.shape()), expected);
  const Tensor same = a.clone();
  cpu::binary(Binary::mul, same, row.expand(a.shape()), same);
  CHECK(same_bits(same, expected));
  const Tensor alone = Tensor::empty({1, 401});
  cpu::binary(Binary::mul, a.slice(0, 77, 78), row, alone);
  CHECK(same_bits(alone, expected.slice(0, 77, 78)));
  check_thread_counts([&] {
    const Tensor out = Tensor::empty_like(a);
    cpu::binary(Binary::div, a, row.expand(a.shape()), out);
    return std::vector<Tensor>{out};
  });
  const Tensor nan = Tensor::full({20}, kNaN), one = Tensor::full({20}, 1),
               out = Tensor::empty({20});
  for (Binary f : {Binary::min, Binary::max}) {
    cpu::binary(f, nan, one, out);
    for (float v : out.span<float>()) CHECK(std::isnan(v));
    cpu::binary(f, one, nan, out);
    for (float v : out.span<float>()) CHECK(std::isnan(v));
  }
  CHECK(contains(message_of([&] { cpu::binary(Binary::add, a, row, out); }), "binary"));
}

TEST_CASE("axpby and scale_shift") {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Tensor x = random_tensor({1000}, 1, dtype), y = random_tensor({1000}, 2, dtype);
    const Tensor out = y.clone(), scaled = Tensor::empty_like(x);
    cpu::axpby(2, x, -3, out);
    cpu::scale_shift(0.5, 4, x, scaled);
    const auto vx = x.to_vector(), vy = y.to_vector(), vo = out.to_vector(),
               vs = scaled.to_vector();
    for (size_t i = 0; i < vx.size(); ++i) {
      CHECK(std::abs(vo[i] - (2 * vx[i] - 3 * vy[i])) < 1e-5);
      CHECK(std::abs(vs[i] - (0.5 * vx[i] + 4)) < 1e-5);
    }
    const Tensor fresh = Tensor::full({1000}, kNaN, dtype);
    cpu::axpby(1, x, 0, fresh);
    CHECK(same_values(fresh, x));
  }
}

TEST_CASE("gated residual: values, gradients, a sample alone") {
  const int64_t G = 3, rows = 400, C = 90;  // several blocks a group
  const Tensor wide = random_tensor({G, 2 * C}, 1);
  const Tensor gate = wide.slice(1, C, 2 * C);
  const Tensor residual = random_tensor({G * rows, C}, 2), y = random_tensor({G * rows, C}, 3),
               dout = random_tensor({G * rows, C}, 4);
  const Tensor out = Tensor::empty_like(y), dgate = Tensor::empty({G, C}),
               dy = Tensor::empty_like(y);
  cpu::gate_residual(residual, gate, y, out);
  cpu::gate_residual_backward(gate, y, dout, dgate, dy);
  const auto vr = residual.to_vector(), vg = gate.to_vector(), vy = y.to_vector(),
             vd = dout.to_vector();
  std::vector<double> expected(vy.size()), expected_dy(vy.size()), expected_dgate(G * C);
  for (int64_t i = 0; i < G * rows; ++i)
    for (int64_t c = 0; c < C; ++c) {
      const double g = vg[i / rows * C + c];
      const size_t k = i * C + c;
      expected[k] = vr[k] + g * vy[k];
      expected_dy[k] = g * vd[k];
      expected_dgate[i / rows * C + c] += vy[k] * vd[k];
    }
  check_close(out, Tensor::from(expected, y.shape()), 1e-6);
  check_close(dy, Tensor::from(expected_dy, y.shape()), 1e-6);
  check_close(dgate, Tensor::from(expected_dgate, {G, C}));
  const auto rows_of = [&](const Tensor& t) { return t.slice(0, rows, 2 * rows); };
  const Tensor out1 = Tensor::empty({rows, C}), dgate1 = Tensor::empty({1, C}),
               dy1 = Tensor::empty({rows, C});
  cpu::gate_residual(rows_of(residual), gate.slice(0, 1, 2), rows_of(y), out1);
  cpu::gate_residual_backward(gate.slice(0, 1, 2), rows_of(y), rows_of(dout), dgate1, dy1);
  CHECK(same_bits(out1, rows_of(out)));
  CHECK(same_bits(dgate1, dgate.slice(0, 1, 2)));
  CHECK(same_bits(dy1, rows_of(dy)));
  check_thread_counts([&] {
    const Tensor o = Tensor::empty_like(y), dg = Tensor::empty({G, C}), d = Tensor::empty_like(y);
    cpu::gate_residual(residual, gate, y, o);
    cpu::gate_residual_backward(gate, y, dout, dg, d);
    return std::vector<Tensor>{o, dg, d};
  });
  const Tensor none = Tensor::empty({0, C}), zeros = Tensor::full({1, C}, 5);
  cpu::gate_residual_backward(gate.slice(0, 0, 1), none, none, zeros, none);
  for (float v : zeros.span<float>()) CHECK(v == 0);
}

TEST_CASE("all_finite finds one bad value anywhere") {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16, DType::f16}) {
    const Tensor x = random_tensor({70001}, 1, dtype);
    CHECK(cpu::all_finite(x));
    for (int64_t i : {0, 15, 16, 40000, 70000})
      for (float bad : {kNaN, kInf, -kInf}) {
        const Tensor y = x.clone();
        y.slice(0, i, i + 1).fill(bad);
        CHECK(!cpu::all_finite(y));
      }
  }
  CHECK(cpu::all_finite(Tensor::empty({0})));
  CHECK(cpu::all_finite(Tensor::zeros({3}, DType::i64)));
  CHECK(!cpu::all_finite(Tensor::full({4, 5}, kNaN).transpose(0, 1)));
  CHECK(cpu::all_finite(Tensor::full({100}, 3e38)));
}
