#include "kernels/adamw.h"

#include "kernels/reduce.h"
#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

struct State {
  Tensor p, g, m, v;
};

State make_state(int64_t n, DType dtype) {
  const Tensor v = random_tensor({n}, 4, DType::f64, 0.1);
  for (double& x : v.span<double>()) x *= x;
  return {random_tensor({n}, 1, dtype), random_tensor({n}, 2, dtype),
          random_tensor({n}, 3, dtype, 0.1), v.to(dtype)};
}

}  // namespace

TEST_CASE("adamw against a plain double loop over many steps") {
  AdamWStep s{3e-3, 0.9, 0.95, 1e-8, 0.1, 0.5, 1};
  for (DType dtype : {DType::f32, DType::f64}) {
    const State state = make_state(1003, dtype);
    auto p = state.p.to_vector(), g = state.g.to_vector(), m = state.m.to_vector(),
         v = state.v.to_vector();
    for (s.step = 1; s.step <= 20; ++s.step) {
      cpu::adamw(state.p, state.g, state.m, state.v, s);
      for (size_t i = 0; i < p.size(); ++i) {
        const double gi = g[i] * s.grad_scale;
        m[i] = s.beta1 * m[i] + (1 - s.beta1) * gi;
        v[i] = s.beta2 * v[i] + (1 - s.beta2) * gi * gi;
        const double mh = m[i] / (1 - std::pow(s.beta1, s.step)),
                     vh = v[i] / (1 - std::pow(s.beta2, s.step));
        p[i] -= s.lr * (s.weight_decay * p[i] + mh / (std::sqrt(vh) + s.eps));
      }
    }
    const double limit = dtype == DType::f32 ? 2e-6 : 1e-13;
    check_close(state.p, Tensor::from(p, {1003}), limit);
    check_close(state.m, Tensor::from(m, {1003}), limit);
    check_close(state.v, Tensor::from(v, {1003}), limit);
  }
}

TEST_CASE("adamw by hand") {
  // Step 1 from zero moments: mhat = g, vhat = g^2, so the step is lr sign(g) for eps << |g|.
  const Tensor p = Tensor::full({1}, 2, DType::f64), g = Tensor::full({1}, -0.5, DType::f64),
               m = Tensor::zeros({1}, DType::f64), v = Tensor::zeros({1}, DType::f64);
  cpu::adamw(p, g, m, v, {0.1, 0.9, 0.999, 0, 0.01, 1, 1});
  CHECK(p.item() == doctest::Approx(2 - 0.1 * (0.01 * 2 - 1)).epsilon(1e-14));
  CHECK(m.item() == doctest::Approx(-0.05).epsilon(1e-14));
  CHECK(v.item() == doctest::Approx(0.00025).epsilon(1e-14));
  // eps far above |g| turns it into a plain gradient step of lr / eps.
  const Tensor q = Tensor::zeros({1}), h = Tensor::full({1}, 1e-12), zm = Tensor::zeros({1}),
               zv = Tensor::zeros({1});
  cpu::adamw(q, h, zm, zv, {1e-3, 0.9, 0.999, 1e-8, 0, 1, 1});
  CHECK(q.item() == doctest::Approx(-1e-3 * 1e-12 / 1.0001e-8).epsilon(1e-4));
}

TEST_CASE("adamw keeps a decay too small for 1 - lr wd in f32") {
  const Tensor p = Tensor::full({1}, 1), zero = Tensor::zeros({1}), m = Tensor::full({1}, 0.9),
               v = Tensor::full({1}, 1);
  // lr * (1e-4 + mhat / sqrt(vhat)) with lr = 3e-4: the decay adds 3e-8 to a step of 2.7e-4.
  cpu::adamw(p, zero, m, v, {3e-4, 0.9, 0.999, 0, 1e-4, 1, 1000000});
  const double expected = 1 - 3e-4 * (1e-4 + 0.81 / std::sqrt(0.999));
  CHECK(std::abs(p.item() - expected) <= 3.1e-8);
}

TEST_CASE("adamw: NaN shows, threads do not matter, bad calls are named") {
  const State a = make_state(5, DType::f32);
  a.g.data<float>()[2] = std::numeric_limits<float>::quiet_NaN();
  cpu::adamw(a.p, a.g, a.m, a.v, {});
  for (int i = 0; i < 5; ++i) CHECK(std::isnan(a.p.data<float>()[i]) == (i == 2));
  check_thread_counts([] {
    const State s = make_state(100003, DType::f32);
    cpu::adamw(s.p, s.g, s.m, s.v, {1e-3, 0.9, 0.999, 1e-8, 0.01, 0.7, 3});
    cpu::ema(s.m, s.p, 0.9);
    return std::vector<Tensor>{s.p, s.m, s.v};
  });
  const Tensor none = Tensor::empty({0});
  cpu::adamw(none, none, none, none, {});
  CHECK(contains(message_of([&] { cpu::adamw(a.p, a.g, a.m, Tensor::zeros({4}), {}); }), "v has"));
  AdamWStep zero;
  zero.step = 0;
  CHECK(contains(message_of([&] { cpu::adamw(a.p, a.g, a.m, a.v, zero); }), "step"));
}

TEST_CASE("ema moves toward the parameter and stays there") {
  for (DType dtype : {DType::f32, DType::f64}) {
    const Tensor average = random_tensor({77}, 1, dtype), param = random_tensor({77}, 2, dtype);
    const auto a = average.to_vector(), p = param.to_vector();
    cpu::ema(average, param, 0.75);
    std::vector<double> expected;
    for (size_t i = 0; i < a.size(); ++i) expected.push_back(0.75 * a[i] + 0.25 * p[i]);
    check_close(average, Tensor::from(expected, {77}), dtype == DType::f32 ? 1e-6 : 1e-14);
    const Tensor equal = param.clone();
    cpu::ema(equal, param, 0.9);
    CHECK(same_bits(equal, param));
    cpu::ema(average, param, 0);
    check_close(average, param, 1e-6);
  }
}

TEST_CASE("adamw_all is adamw and ema of every tensor, grad_squares their norm") {
  const AdamWStep step{1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 3};
  for (DType dtype : {DType::f32, DType::f64}) {
    std::vector<AdamWTensor> all, one;
    double squares = 0;
    for (int64_t n : {5, 0, 1000, 7}) {
      const State s = make_state(n, dtype);
      const Tensor average = random_tensor({n}, 9, dtype);
      all.push_back({s.p, s.g, s.m, s.v, average});
      one.push_back({s.p.clone(), s.g, s.m.clone(), s.v.clone(), average.clone()});
    }
    all[0].average = one[0].average = Tensor();
    all[3].grad = one[3].grad = Tensor();
    for (const AdamWTensor& t : one) {
      if (t.grad) squares += cpu::dot(t.grad, t.grad);
    }
    CHECK(cpu::grad_squares(all) == squares);
    cpu::adamw_all(all, step, 0.75);
    for (size_t i = 0; i < all.size(); ++i) {
      const AdamWTensor& t = one[i];
      if (t.grad) cpu::adamw(t.param, t.grad, t.m, t.v, step);
      if (t.average) cpu::ema(t.average, t.param, 0.75);
      CHECK(same_bits(all[i].param, t.param));
      CHECK(same_bits(all[i].m, t.m));
      CHECK(same_bits(all[i].v, t.v));
      if (t.average) CHECK(same_bits(all[i].average, t.average));
    }
  }
  cpu::adamw_all({}, step, 0.5);
  CHECK(cpu::grad_squares({}) == 0);
}
