// The gradient of the whole GRPO loss with respect to the adapter, against finite differences of a
// loss that is worked out anew.
#include "rl/rewards/pixels.h"
#include "tests/rl/trainer_bench.h"

using namespace parlo;
using namespace parlo::test;

namespace {

// The trainer's first loss, worked out anew in f64 from what passed through the model: per sample
// and stochastic step max(-A r, -A clip(r)) + beta |mean - mean_ref|^2 / (2 std^2), averaged.
struct LossOracle {
  const Bench& bench;
  GrpoConfig config;
  std::vector<Tensor> states;  // x_0 .. x_T, [B, D] each
  std::vector<double> sigmas;
  Condition condition;
  Advantages advantages;
  std::vector<std::vector<double>> old_log_probs;  // by step
  std::vector<int64_t> steps{};                    // the stochastic ones
  std::vector<std::vector<double>> reference;      // velocities without the adapter, by step

  LossOracle(const Bench& b, const GrpoConfig& c) : bench(b), config(c) {
    sigmas = b.model.sigmas(c.rollout.steps);
    const int64_t batch = c.prompts_per_step * c.group_size;
    for (int64_t t = 0; t < c.rollout.steps; ++t) {
      states.push_back(b.model.inputs[static_cast<size_t>(t)].view({batch, -1}));
    }
    states.push_back(b.model.decoded[0].view({batch, -1}));
    condition = b.model.conditions[0];
    score();
    for (int64_t t = 0; t + 1 < c.rollout.steps; ++t) {
      if (is_stochastic(t)) steps.push_back(t);
    }
  }

  void score() {
    std::vector<double> rewards;
    for (const Image& image : to_images(bench.pipeline->decode(bench.model.decoded[0]))) {
      rewards.push_back(dominance(image, 0));
    }
    advantages = group_advantages(rewards, config.group_size, config.advantage);
  }

  std::vector<double> velocity(int64_t t) const {
    const NoGrad guard;
    const int64_t batch = states[0].dim(0);
    Shape shape = bench.pipeline->latent_shape();
    shape.insert(0, batch);
    const std::vector<double> sigma(static_cast<size_t>(batch), sigmas[static_cast<size_t>(t)]);
    return bench.pipeline
        ->velocity(Var(states[static_cast<size_t>(t)].view(shape)), sigma, condition)
        .value()
        .to_vector();
  }

  FlowCoefficients coefficients(int64_t t) const {
    const auto at = static_cast<size_t>(t);
    return flow_coefficients(config.rollout.noise, sigmas[at], sigmas[at + 1],
                             config.rollout.noise_level, sigmas[1]);
  }

  // An ODE step lands exactly where Euler puts it.
  bool is_stochastic(int64_t t) const {
    const std::vector<double> v = velocity(t), x = states[static_cast<size_t>(t)].to_vector(),
                              next = states[static_cast<size_t>(t + 1)].to_vector();
    const double dt = sigmas[static_cast<size_t>(t + 1)] - sigmas[static_cast<size_t>(t)];
    double largest = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      largest = std::max(largest, std::abs(next[i] - x[i] - dt * v[i]));
    }
    return largest > 1e-3;
  }

  std::vector<double> log_probs(int64_t t, const std::vector<double>& v) const {
    const FlowCoefficients c = coefficients(t);
    const std::vector<double> x = states[static_cast<size_t>(t)].to_vector(),
                              next = states[static_cast<size_t>(t + 1)].to_vector();
    const auto batch = static_cast<size_t>(states[0].dim(0));
    const size_t size = x.size() / batch;
    std::vector<double> out;
    for (size_t b = 0; b < batch; ++b) {
      double squares = 0;
      for (size_t i = b * size; i < (b + 1) * size; ++i) {
        squares += std::pow(next[i] - c.cx * x[i] - c.cv * v[i], 2) / static_cast<double>(size);
      }
      out.push_back(config.rollout.noise == FlowNoise::cps ? -squares
                                                           : -squares / (2 * c.std * c.std));
    }
    return out;
  }

  // With the adapter as it is now; the first call fixes the old log-probabilities.
  double loss() {
    if (old_log_probs.empty()) {
      for (int64_t t : steps) old_log_probs.push_back(log_probs(t, velocity(t)));
      const AdapterDisabled base(bench.pipeline->linears());
      for (int64_t t : steps) reference.push_back(velocity(t));
    }
    double total = 0;
    const auto batch = static_cast<size_t>(states[0].dim(0));
    for (size_t k = 0; k < steps.size(); ++k) {
      const std::vector<double> v = velocity(steps[k]), now = log_probs(steps[k], v);
      const FlowCoefficients c = coefficients(steps[k]);
      const size_t size = v.size() / batch;
      for (size_t b = 0; b < batch; ++b) {
        const double a = advantages.values[b], r = std::exp(now[b] - old_log_probs[k][b]);
        const double clipped = std::clamp(r, 1 - config.loss.clip_low, 1 + config.loss.clip_high);
        double distance = 0;
        for (size_t i = b * size; i < (b + 1) * size; ++i) {
          distance += std::pow(c.cv * (v[i] - reference[k][i]), 2) / static_cast<double>(size);
        }
        const double kl = distance / (2 * c.kl_std * c.kl_std);
        total += std::max(-a * r, -a * clipped) + config.loss.kl_beta * kl;
      }
    }
    return total / static_cast<double>(batch * steps.size());
  }
};

}  // namespace

TEST_CASE("the gradient of the whole loss agrees with finite differences") {
  for (const FlowNoise noise : {FlowNoise::sde, FlowNoise::cps}) {
    for (const double kl : {0.0, 0.3}) {
      Bench bench;
      GrpoConfig c = tiny_config();
      c.rollout.noise = noise;
      c.updates_per_rollout = 1;
      c.rollout.micro_batch = 32;  // the watched calls then hold all samples
      c.max_grad_norm = 0;
      c.loss = {0.5, 0.5, kl, false};
      const auto before = snapshot(bench.adapter);
      GrpoTrainer& trainer = bench.start(c);
      const StepStats stats = trainer.step();
      const auto gradient = gradients_of(bench);
      for (size_t i = 0; i < before.size(); ++i) {
        bench.adapter.params()[i].var.value().copy_from(before[i].second);
      }
      LossOracle oracle(bench, c);
      REQUIRE(oracle.steps.size() == 2);
      CHECK(oracle.loss() == doctest::Approx(stats.loss).epsilon(1e-4));

      // Along the gradient and along a random direction, tensor by tensor. The forward is f32: a
      // step of 0.02 leaves about 1e-4 of truncation and 1e-4 of rounding; 1% of a tensor's
      // gradient is allowed.
      double all = 0;
      for (const auto& [name, g] : gradient) all = std::hypot(all, norm_of(g));
      for (size_t i = 0; i < before.size(); ++i) {
        const auto& [name, start] = before[i];
        const std::vector<double>& g = gradient.at(name);
        const Tensor value = bench.adapter.params()[i].var.value();
        const Tensor along = Tensor::from(g, start.shape()).to(DType::f32);
        for (const Tensor& direction : {along, random_tensor(start.shape(), uint32_t(i))}) {
          const std::vector<double> d = direction.to_vector();
          const double length = norm_of(d), h = 0.02;
          const auto loss_at = [&](double by) {
            value.copy_from(start);
            add_scaled(value, by / length, direction);
            return oracle.loss();
          };
          const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
          value.copy_from(start);
          double expected = 0;
          for (size_t k = 0; k < d.size(); ++k) expected += g[k] * d[k] / length;
          INFO(name, ": ", slope, " against ", expected, ", gradient ", norm_of(g), " of ", all);
          CHECK(std::abs(slope - expected) <= 0.01 * norm_of(g) + 1e-3 * all);
        }
      }
      CHECK(stats.grad_norm == doctest::Approx(all).epsilon(1e-4));
    }
  }
}
