// The polynomials against libm in f64, over the range where the result is a normal number, and at
// the special values. This file is compiled for AVX2; the AVX-512 forms differ in rounding to
// integers, scaling and the reciprocal, and are covered by the tests of unary and linear.
// The calls below stay inside this file: their calling convention does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"
#include "kernels/cpu/isa/vecmath.h"

#include "tests/support.h"

using namespace parlo::cpu;

namespace {

using Fn = Vec (*)(Vec);

double worst(Fn f, double (*exact)(double), double from, double to) {
  double error = 0;
  for (int i = 0; i < 20000; ++i) {
    Vec x;
    for (int j = 0; j < kLanes; ++j) {
      x[j] = static_cast<float>(from + (to - from) * (i * kLanes + j) / (20000 * kLanes));
    }
    const Vec y = f(x);
    for (int j = 0; j < kLanes; ++j) {
      const double want = exact(x[j]);
      if (want == 0) continue;
      error = std::max(error, std::abs(y[j] - want) / std::abs(want));
    }
  }
  return error;
}

float at(Fn f, float x) {
  return f(Vec{} + x)[kLanes - 1];
}

double exact_sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}
double exact_exp(double x) {
  return std::exp(x);
}
double exact_log(double x) {
  return std::log(x);
}
double exact_tanh(double x) {
  return std::tanh(x);
}
double exact_erf(double x) {
  return std::erf(x);
}

constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

TEST_CASE("relative error at most 3e-7") {
  CHECK(worst(vexp, exact_exp, -87, 88.7) < 3e-7);
  CHECK(worst(vexp, exact_exp, -1e-3, 1e-3) < 3e-7);
  CHECK(worst(vlog, exact_log, 1e-6, 3) < 3e-7);
  CHECK(worst(vlog, exact_log, 0.99, 1.01) < 3e-7);
  CHECK(worst(vlog, exact_log, 1, 3e38) < 3e-7);
  CHECK(worst(vlog, exact_log, 1.2e-38, 1e-36) < 3e-7);
  CHECK(worst(vsigmoid, exact_sigmoid, -85, 85) < 3e-7);
  CHECK(worst(vtanh, exact_tanh, -10, 10) < 3e-7);
  CHECK(worst(vtanh, exact_tanh, -1e-2, 1e-2) < 3e-7);
  CHECK(worst(verf, exact_erf, -5, 5) < 3e-7);
  CHECK(worst(verf, exact_erf, -1e-2, 1e-2) < 3e-7);
}

TEST_CASE("limits and NaN") {
  CHECK(at(vexp, kInfinity) == kInfinity);
  CHECK(at(vexp, 100) == kInfinity);
  CHECK(at(vexp, -kInfinity) == 0);
  CHECK(at(vexp, 0) == 1);
  CHECK(at(vlog, 0) == -kInfinity);
  CHECK(at(vlog, 1) == 0);
  CHECK(at(vlog, kInfinity) == kInfinity);
  CHECK(std::isnan(at(vlog, -1)));
  CHECK(at(vsigmoid, kInfinity) == 1);
  CHECK(at(vsigmoid, -kInfinity) < 1e-37f);
  CHECK(at(vtanh, kInfinity) == 1);
  CHECK(at(vtanh, -kInfinity) == -1);
  CHECK(at(verf, kInfinity) == 1);
  CHECK(at(verf, -kInfinity) == -1);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (Fn f : {vexp, vlog, vsigmoid, vtanh, verf}) CHECK(std::isnan(at(f, nan)));
}
