#include "kernels/flow_step.h"

#include "kernels/random.h"
#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

std::vector<double> sd3_sigmas(int n) {
  // A static shift of 3, applied twice, as diffusers does.
  const auto shift = [](double s) { return 3 * s / (1 + 2 * s); };
  const double smallest = shift(0.001);
  std::vector<double> sigmas;
  for (int i = 0; i < n; ++i) sigmas.push_back(shift(1 + (smallest - 1) * i / (n - 1)));
  sigmas.push_back(0);
  return sigmas;
}

std::vector<double> flux_sigmas(int n, double mu) {
  std::vector<double> sigmas;
  for (int i = 0; i < n; ++i) {
    const double s = 1 + (1.0 / n - 1) * i / (n - 1);
    sigmas.push_back(std::exp(mu) / (std::exp(mu) + 1 / s - 1));
  }
  sigmas.push_back(0);
  return sigmas;
}

FlowCoefficients coefficients(FlowNoise noise, const std::vector<double>& s, size_t i, double a) {
  return flow_coefficients(noise, s[i], s[i + 1], a, s[1]);
}

// Half a unit of the last printed digit.
void check_printed(double actual, double printed, double unit) {
  CAPTURE(actual);
  CAPTURE(printed);
  CHECK(std::abs(actual - printed) <= 0.5001 * unit);
}

struct Step {
  Tensor x, v, next, log_prob, mean;
};

Step make_step(const FlowCoefficients& c, int64_t B, int64_t D, DType dtype) {
  Step s{random_tensor({B, D}, 1, dtype), random_tensor({B, D}, 2, dtype),
         Tensor::empty({B, D}, dtype), Tensor::empty({B}, dtype), Tensor::empty({B, D}, dtype)};
  std::vector<RandomKey> keys;
  for (int64_t b = 0; b < B; ++b) keys.push_back(RandomKey(5).fold(static_cast<uint64_t>(b)));
  cpu::flow_step(c, s.x, s.v, keys.data(), s.next, s.log_prob, s.mean);
  return s;
}

struct Loss {
  Tensor loss, ratio, kl, dv;
};

Loss flow_loss(const FlowCoefficients& c, const Step& s, const Tensor& v, const Tensor& old,
               const Tensor& advantage, const Tensor& v_ref, const FlowLossArgs& args) {
  const Shape rows = {v.dim(0)};
  Loss l{Tensor::empty(rows, v.dtype()), Tensor::empty(rows, v.dtype()),
         Tensor::empty(rows, v.dtype()), Tensor::empty_like(v)};
  cpu::flow_loss(c, s.x, v, s.next, old, advantage, v_ref, args, l.loss, l.ratio, l.kl, l.dv);
  return l;
}

const FlowNoise kNoisy[] = {FlowNoise::sde, FlowNoise::cps, FlowNoise::dance};

FlowCoefficients mid_step(FlowNoise noise) {
  return coefficients(noise, sd3_sigmas(10), 6, noise == FlowNoise::dance ? 0.3 : 0.7);
}

}  // namespace

TEST_CASE("SD3 schedule: published coefficients") {
  struct Row {
    double s, n, cx, cv, kappa, cps_std, cps_cx, cps_cv;
  };
  const Row rows[] = {{1, .70000, .75500, -.03987, .0570, .91314, .33657, -.03987},
                      {.960129, .74296, .71254, -.05824, .0784, .86865, .36889, -.07194},
                      {.913349, .53615, .84263, -.06929, .1292, .81571, .40735, -.10701},
                      {.857692, .44590, .88409, -.08382, .1880, .75168, .45387, -.14504},
                      {.790368, .39179, .90289, -.10345, .2640, .67266, .51128, -.18554},
                      {.707278, .35280, .91201, -.13088, .3710, .57268, .58392, -.22692},
                      {.602151, .31907, .91546, -.17091, .5356, .44212, .67878, -.26507},
                      {.464876, .28201, .91446, -.23260, .8248, .26444, .80787, -.28964},
                      {.278049, .22536, .90867, -.33505, 1.4867, .00849, .99383, -.27357},
                      {.008929, .00628, .99779, -.01112, 1.7706, 0, 1, -.00893}};
  const std::vector<double> sigmas = sd3_sigmas(10);
  for (size_t i = 0; i < 10; ++i) {
    CAPTURE(i);
    const FlowCoefficients sde = coefficients(FlowNoise::sde, sigmas, i, 0.7);
    const FlowCoefficients cps = coefficients(FlowNoise::cps, sigmas, i, 0.8);
    check_printed(sigmas[i], rows[i].s, 1e-6);
    check_printed(sde.std, rows[i].n, 1e-5);
    check_printed(sde.cx, rows[i].cx, 1e-5);
    check_printed(sde.cv, rows[i].cv, 1e-5);
    check_printed(std::abs(sde.cv) / sde.std, rows[i].kappa, 1e-4);
    check_printed(cps.std, rows[i].cps_std, 1e-5);
    check_printed(cps.cx, rows[i].cps_cx, 1e-5);
    check_printed(cps.cv, rows[i].cps_cv, 1e-5);
  }
}

TEST_CASE("FLUX schedule: published coefficients") {
  const std::vector<double> sigmas = flux_sigmas(6, 0.63);
  const double s[] = {1, .903736, .789705, .652489, .484218, .273003};
  const double n[] = {.9, .93120, .64604, .50588, .40077, .28817};
  const double kappa[] = {.1070, .1721, .2984, .4673, .7405, 1.3311};
  for (size_t i = 0; i < 6; ++i) {
    CAPTURE(i);
    const FlowCoefficients c = coefficients(FlowNoise::sde, sigmas, i, 0.9);
    check_printed(sigmas[i], s[i], 1e-6);
    check_printed(c.std, n[i], 1e-5);
    check_printed(std::abs(c.cv) / c.std, kappa[i], 1e-4);
  }
}

TEST_CASE("identities of the coefficients") {
  for (double a : {0.3, 0.7, 0.9}) {
    for (const auto& sigmas : {sd3_sigmas(10), flux_sigmas(6, 0.63)}) {
      const FlowCoefficients c = coefficients(FlowNoise::sde, sigmas, 0, a);
      CHECK(c.std == doctest::Approx(a).epsilon(1e-14));
      CHECK(c.cx == doctest::Approx(1 - a * a / 2).epsilon(1e-14));
      CHECK(c.cv == c.dt);
    }
  }
  for (FlowNoise noise : {FlowNoise::ode, FlowNoise::sde, FlowNoise::cps, FlowNoise::dance}) {
    const FlowCoefficients c = flow_coefficients(noise, 0.6, 0.45, 0, 0.9);
    CHECK(c.noise == FlowNoise::ode);  // no noise is the Euler step
    CHECK(c.cx == 1);
    CHECK(c.cv == doctest::Approx(-0.15).epsilon(1e-14));
    CHECK(c.std == 0);
  }
  // DanceGRPO's score form: x + v dt - eta^2/2 score dt, score = -(x - (1-s) x0_hat) / s^2.
  const double s = 0.6, dt = -0.15, eta = 0.3, x = 0.7, v = -1.3;
  const double score = -(x - (1 - s) * (x - s * v)) / (s * s);
  const FlowCoefficients dance = flow_coefficients(FlowNoise::dance, s, s + dt, eta, 0.9);
  CHECK(dance.cx * x + dance.cv * v ==
        doctest::Approx(x + v * dt - 0.5 * eta * eta * score * dt).epsilon(1e-13));
  CHECK(dance.std == doctest::Approx(eta * std::sqrt(0.15)).epsilon(1e-14));
  // CPS keeps the total noise level: (mean's noise coefficient)^2 + std^2 = s_next^2.
  const FlowCoefficients cps = flow_coefficients(FlowNoise::cps, 0.6, 0.45, 0.8, 0.9);
  const double noise = cps.cx * s + cps.cv;  // coefficient of eps for x = (1-s) x0 + s eps
  CHECK(noise * noise + cps.std * cps.std == doctest::Approx(0.45 * 0.45).epsilon(1e-13));
  CHECK(cps.cx * (1 - s) - cps.cv == doctest::Approx(1 - 0.45).epsilon(1e-13));
  for (auto [from, to] : {std::pair{0.5, 0.5}, {0.5, 0.6}, {1.1, 0.5}, {0.5, -0.1}, {0.0, 0.0}})
    CHECK(message_of([&] { flow_coefficients(FlowNoise::sde, from, to, 0.7, 0.9); }) != "");
  CHECK(contains(message_of([&] { flow_coefficients(FlowNoise::sde, 1, 0.9, 0.7, 1); }), "s_cap"));
}

TEST_CASE("the step against a plain loop") {
  const int64_t B = 3, D = 1001;
  for (DType dtype : {DType::f32, DType::f64}) {
    for (FlowNoise noise : kNoisy) {
      CAPTURE(static_cast<int>(noise));
      const FlowCoefficients c = mid_step(noise);
      const Step s = make_step(c, B, D, dtype);
      const auto x = s.x.to_vector(), v = s.v.to_vector();
      std::vector<double> next(x.size()), mean(x.size()), log_prob(B);
      for (int64_t b = 0; b < B; ++b) {
        const Tensor z = Tensor::empty({D});
        cpu::random_normal(RandomKey(5).fold(static_cast<uint64_t>(b)), z);
        for (int64_t i = b * D; i < (b + 1) * D; ++i) {
          mean[i] = c.cx * x[i] + c.cv * v[i];
          const double noise_term = c.std * z.data<float>()[i - b * D];
          next[i] = mean[i] + noise_term;
          log_prob[b] += noise == FlowNoise::cps
                             ? -noise_term * noise_term / D
                             : (-noise_term * noise_term / (2 * c.std * c.std) - std::log(c.std) -
                                0.5 * std::log(2 * 3.14159265358979323846)) /
                                   D;
        }
      }
      const double limit = dtype == DType::f32 ? 1e-6 : 1e-12;
      check_close(s.mean, Tensor::from(mean, {B, D}), limit);
      check_close(s.next, Tensor::from(next, {B, D}), limit);
      check_close(s.log_prob, Tensor::from(log_prob, {B}), limit * 3);
    }
  }
}

TEST_CASE("an ode step is Euler's, without a key") {
  const FlowCoefficients c = flow_coefficients(FlowNoise::ode, 0.6, 0.4, 0.7, 0.9);
  const Tensor x = random_tensor({2, 35}, 1), v = random_tensor({2, 35}, 2),
               next = Tensor::empty({2, 35}), log_prob = Tensor::full({2}, 9);
  cpu::flow_step(c, x, v, nullptr, next, log_prob, {});
  for (int64_t i = 0; i < 70; ++i)
    CHECK(next.data<float>()[i] ==
          doctest::Approx(x.data<float>()[i] - 0.2 * v.data<float>()[i]).epsilon(1e-5));
  CHECK(log_prob.to_vector()[1] == 0);
  CHECK(contains(message_of([&] {
                   cpu::flow_step(mid_step(FlowNoise::sde), x, v, nullptr, next, log_prob, {});
                 }),
                 "key"));
}

TEST_CASE("the log-probability of a stored step is the same bits") {
  for (FlowNoise noise : kNoisy) {
    for (size_t i : {0u, 4u, 8u}) {
      for (int64_t D : {1, 7, 64, 1000, 16 * 6 * 6, 10000}) {
        const FlowCoefficients c = coefficients(noise, sd3_sigmas(10), i, 0.7);
        const Step s = make_step(c, 3, D, DType::f32);
        const Tensor again = Tensor::empty({3});
        cpu::flow_log_prob(c, s.x, s.v, s.next, again);
        CHECK(same_bits(again, s.log_prob));
        const Loss l = flow_loss(c, s, s.v, s.log_prob, Tensor::full({3}, 1), {}, {});
        for (float r : l.ratio.span<float>()) CHECK(r == 1.0f);
      }
    }
  }
}

TEST_CASE("a sample does not depend on its batch or on threads") {
  const FlowCoefficients c = mid_step(FlowNoise::sde);
  const int64_t B = 5, D = 9001;
  const Step s = make_step(c, B, D, DType::f32);
  const Tensor v = random_tensor({B, D}, 3), ref = random_tensor({B, D}, 4),
               advantage = random_tensor({B}, 6);
  FlowLossArgs args{1e-4, 1e-4, 0.04, false};
  const Loss all = flow_loss(c, s, v, s.log_prob, advantage, ref, args);
  for (int64_t b = 0; b < B; ++b) {
    const auto row = [b](const Tensor& t) { return t.slice(0, b, b + 1); };
    const RandomKey key = RandomKey(5).fold(static_cast<uint64_t>(b));
    Step one{row(s.x), row(s.v), Tensor::empty({1, D}), Tensor::empty({1}), Tensor()};
    cpu::flow_step(c, one.x, one.v, &key, one.next, one.log_prob, {});
    CHECK(same_bits(one.next, row(s.next)));
    CHECK(same_bits(one.log_prob, row(s.log_prob)));
    const Loss l = flow_loss(c, one, row(v), one.log_prob, row(advantage), row(ref), args);
    CHECK(same_bits(l.loss, row(all.loss)));
    CHECK(same_bits(l.kl, row(all.kl)));
    CHECK(same_bits(l.dv, row(all.dv)));
  }
  check_thread_counts([&] {
    const Step t = make_step(c, B, D, DType::f32);
    const Loss l = flow_loss(c, t, v, t.log_prob, advantage, ref, args);
    return std::vector<Tensor>{t.next, t.log_prob, t.mean, l.loss, l.ratio, l.kl, l.dv};
  });
}

TEST_CASE("loss gradient by finite differences, all forms, clipped and not") {
  const int64_t B = 4, D = 33;
  for (FlowNoise noise : kNoisy) {
    for (bool exact_kl : {false, true}) {
      for (double clip : {10.0, 1e-4}) {
        CAPTURE(static_cast<int>(noise));
        const FlowCoefficients c = mid_step(noise);
        const Step s = make_step(c, B, D, DType::f64);
        const Tensor v = s.v.clone(), shift = random_tensor({B, D}, 8, DType::f64, 0.05);
        for (int64_t i = 0; i < B * D; ++i) v.data<double>()[i] += shift.data<double>()[i];
        const Tensor ref = random_tensor({B, D}, 9, DType::f64);
        const Tensor advantage = Tensor::from(std::vector<double>{1.5, -0.7, 0, -2}, {B});
        const FlowLossArgs args{clip, clip, 0.3, exact_kl};
        const auto loss = [&] {
          double sum = 0;
          for (double l : flow_loss(c, s, v, s.log_prob, advantage, ref, args).loss.to_vector())
            sum += l;
          return sum;
        };
        const Loss l = flow_loss(c, s, v, s.log_prob, advantage, ref, args);
        check_close(l.dv, numeric_gradient(v, loss), 1e-6);
        // The f32 kernel follows.
        const Step f{s.x.to(DType::f32), {}, s.next.to(DType::f32), {}, {}};
        const Loss l32 = flow_loss(c, f, v.to(DType::f32), s.log_prob.to(DType::f32),
                                   advantage.to(DType::f32), ref.to(DType::f32), args);
        check_close(l32.ratio, l.ratio, 1e-5);
        check_close(l32.kl, l.kl, 1e-5);
      }
    }
  }
}

TEST_CASE("loss values: clipping, KL, ties") {
  const FlowCoefficients c = mid_step(FlowNoise::sde);
  const int64_t D = 50;
  const Step s = make_step(c, 1, D, DType::f64);
  const auto at = [&](double log_ratio, double advantage) {
    const Tensor old = Tensor::full({1}, s.log_prob.item() - log_ratio, DType::f64);
    return flow_loss(c, s, s.v, old, Tensor::full({1}, advantage, DType::f64), {},
                     {0.1, 0.2, 0, false});
  };
  const auto moved = [](const Loss& l) {
    double largest = 0;
    for (double g : l.dv.to_vector()) largest = std::max(largest, std::abs(g));
    return largest > 0;
  };
  struct Row {
    double log_ratio, advantage, loss;
    bool gradient;
  };
  const Row rows[] = {{0, 2, -2, true},
                      {0, -2, 2, true},
                      {0.5, 2, -2.4, false},                 // clipped above
                      {0.5, -2, 2 * std::exp(0.5), true},    // a bad sample that got likelier
                      {-0.5, 2, -2 * std::exp(-0.5), true},  // a good one that got less likely
                      {-0.5, -2, 1.8, false},                // clipped below
                      {0.1, 2, -2 * std::exp(0.1), true}};   // inside
  for (const Row& row : rows) {
    const Loss l = at(row.log_ratio, row.advantage);
    CHECK(l.loss.item() == doctest::Approx(row.loss).epsilon(1e-9));
    CHECK(l.ratio.item() == doctest::Approx(std::exp(row.log_ratio)).epsilon(1e-9));
    CHECK(moved(l) == row.gradient);
    CHECK(l.kl.item() == 0);
  }
}

TEST_CASE("KL divides by the std without dt, or exactly") {
  for (FlowNoise noise : kNoisy) {
    const FlowCoefficients c = mid_step(noise);
    const int64_t D = 40;
    const Step s = make_step(c, 1, D, DType::f64);
    const Tensor ref = random_tensor({1, D}, 3, DType::f64), one = Tensor::full({1}, 1, DType::f64);
    double distance = 0;
    for (int64_t i = 0; i < D; ++i)
      distance += std::pow(c.cv * (s.v.data<double>()[i] - ref.data<double>()[i]), 2) / D;
    const Loss code = flow_loss(c, s, s.v, s.log_prob, one, ref, {1, 1, 0.5, false});
    const Loss exact = flow_loss(c, s, s.v, s.log_prob, one, ref, {1, 1, 0.5, true});
    CHECK(code.kl.item() == doctest::Approx(distance / (2 * c.kl_std * c.kl_std)).epsilon(1e-9));
    CHECK(exact.kl.item() == doctest::Approx(distance / (2 * c.std * c.std)).epsilon(1e-9));
    CHECK(code.loss.item() == doctest::Approx(-1 + 0.5 * code.kl.item()).epsilon(1e-9));
    if (noise != FlowNoise::cps)  // the code's KL is |dt| times the exact one
      CHECK(code.kl.item() == doctest::Approx(-c.dt * exact.kl.item()).epsilon(1e-9));
    const Loss same = flow_loss(c, s, s.v, s.log_prob, one, s.v, {1, 1, 0.5, false});
    CHECK(same.kl.item() == 0);
    CHECK(same.loss.item() == -1);
  }
}

TEST_CASE("the last cps step is deterministic and trains nothing") {
  const FlowCoefficients c = coefficients(FlowNoise::cps, sd3_sigmas(10), 9, 0.8);
  const Step s = make_step(c, 2, 30, DType::f32);
  CHECK(same_bits(s.next, s.mean));
  const Loss l = flow_loss(c, s, s.v, s.log_prob, Tensor::full({2}, 1), {}, {});
  for (float g : l.dv.span<float>()) CHECK(g == 0);
  FlowLossArgs kl;
  kl.kl_beta = 1;
  CHECK(
      contains(message_of([&] { flow_loss(c, s, s.v, s.log_prob, Tensor::full({2}, 1), s.v, kl); }),
               "no noise"));
}

TEST_CASE("NaN shows in every output, bad calls are named") {
  const FlowCoefficients c = mid_step(FlowNoise::sde);
  const Step s = make_step(c, 2, 100, DType::f32);
  const Tensor v = s.v.clone();
  v.data<float>()[150] = std::numeric_limits<float>::quiet_NaN();
  const Loss l = flow_loss(c, s, v, s.log_prob, Tensor::full({2}, 1), {}, {});
  CHECK(std::isfinite(l.loss.data<float>()[0]));
  CHECK(std::isnan(l.loss.data<float>()[1]));
  CHECK(std::isnan(l.ratio.data<float>()[1]));
  CHECK(std::isnan(l.dv.data<float>()[120]));
  const FlowCoefficients ode = flow_coefficients(FlowNoise::ode, 0.6, 0.4, 0, 0.9);
  CHECK(contains(
      message_of([&] { flow_loss(ode, s, v, s.log_prob, Tensor::full({2}, 1), {}, {}); }), "ode"));
  FlowLossArgs kl;
  kl.kl_beta = 0.04;
  CHECK(contains(message_of([&] { flow_loss(c, s, v, s.log_prob, Tensor::full({2}, 1), {}, kl); }),
                 "v_ref"));
  const Tensor out = Tensor::empty({2});
  CHECK(contains(message_of([&] { cpu::flow_log_prob(c, s.x, s.v, s.next.slice(0, 0, 1), out); }),
                 "next"));
}
