// GRPO through the GPU backend against the CPU's: same keys, same rollout, same adapter.
#include "tests/gpu_support.h"
#include "tests/rl/trainer_bench.h"

namespace parlo::test {
namespace {

// Tensors of the trainer after some steps on a device, and what the steps said.
struct Trained {
  std::map<std::string, Tensor> state;
  std::vector<StepStats> stats;
  int64_t recorded = 0, replays = 0;
};

Trained train(Device device, const GrpoConfig& config, int steps) {
  Bench bench;
  bench.pipeline->to(device);
  bench.adapter = trained_adapter(bench.model.linears(), 11);
  GrpoTrainer& trainer = bench.start(config);
  Trained out;
  for (int i = 0; i < steps; ++i) out.stats.push_back(trainer.step());
  out.recorded = trainer.velocity().replayed().recorded();
  out.replays = trainer.velocity().replayed().replays();
  for (const auto& [name, t] : trainer.state()) out.state[name] = t.to(Device{});
  return out;
}

// The reward is read off 8-bit pixels, so a value next to a rounding edge may move one of them; the
// policy gradient then moves by about that much.
void check_equal_training(const GrpoConfig& config) {
  const Trained cpu = train(Device{}, config, 2), gpu = train(kGpu, config, 2);
  for (size_t i = 0; i < cpu.stats.size(); ++i) {
    INFO("step ", i + 1);
    const StepStats &c = cpu.stats[i], &g = gpu.stats[i];
    CHECK(g.first_ratio_deviation == 0);
    CHECK(g.bad_updates == 0);
    CHECK(g.reward == doctest::Approx(c.reward).epsilon(1e-4));
    CHECK(g.loss == doctest::Approx(c.loss).epsilon(1e-3));
    CHECK(g.kl == doctest::Approx(c.kl).epsilon(1e-3));
    CHECK(g.grad_norm == doctest::Approx(c.grad_norm).epsilon(1e-3));
  }
  REQUIRE(cpu.state.size() == gpu.state.size());
  for (const auto& [name, t] : cpu.state) {
    INFO(name);
    CHECK(max_relative_error(gpu.state.at(name), t) <= 1e-3);
  }
}

}  // namespace

TEST_CASE("gpu: two GRPO steps end where the CPU's do") {
  GrpoConfig config = tiny_config();
  for (const FlowNoise noise : {FlowNoise::cps, FlowNoise::sde}) {
    config.rollout.noise = noise;
    check_equal_training(config);
  }
}

TEST_CASE("gpu: with KL, guidance and EMA as well") {
  GrpoConfig config = tiny_config();
  config.rollout.noise = FlowNoise::sde;
  config.rollout.guidance = 2;
  config.loss.kl_beta = 0.1;
  config.ema_decay = 0.5;
  check_equal_training(config);
}

// The first call of a shape runs, the second is recorded, the others are replayed; what comes out
// must be the bits of a run that records nothing.
TEST_CASE("gpu: recorded steps have the bits of direct ones") {
  GrpoConfig config = tiny_config();
  config.rollout.noise = FlowNoise::sde;
  config.loss.kl_beta = 0.1;
  const Trained recorded = train(kGpu, config, 3);
  CHECK(recorded.recorded >= 3);  // rollout, reference, training
  CHECK(recorded.replays > 2 * recorded.recorded);
  config.rollout.record = false;
  const Trained direct = train(kGpu, config, 3);
  CHECK(direct.recorded == 0);
  for (const auto& [name, t] : direct.state) {
    INFO(name);
    CHECK(same_bits(t, recorded.state.at(name)));
  }
}

// Factors, their gradients and the optimiser stay f32. Rounded activations move a reward now and
// then, so only what must hold exactly is compared.
TEST_CASE("gpu: bf16 activations and frozen weights") {
  GrpoConfig config = tiny_config();
  const auto train_bf16 = [&](bool record) {
    config.rollout.record = record;
    Bench bench;
    bench.pipeline->to(kGpu);
    bench.pipeline->transformer().narrow();
    bench.adapter = trained_adapter(bench.model.linears(), 11);
    GrpoTrainer& trainer = bench.start(config);
    std::map<std::string, Tensor> state;
    for (int i = 0; i < 3; ++i) {
      const StepStats stats = trainer.step();
      CHECK(stats.first_ratio_deviation == 0);
      CHECK(stats.bad_updates == 0);
      CHECK(stats.grad_norm > 0);
    }
    for (const auto& [name, t] : trainer.state()) state[name] = t.to(Device{});
    return state;
  };
  const auto direct = train_bf16(false), recorded = train_bf16(true);
  const Trained f32 = train(kGpu, config, 3);
  for (const auto& [name, t] : direct) {
    INFO(name);
    CHECK(t.dtype() == f32.state.at(name).dtype());
    CHECK(same_bits(t, recorded.at(name)));
  }
}

TEST_CASE("gpu: the same run twice ends in the same bits") {
  const Trained a = train(kGpu, tiny_config(), 2), b = train(kGpu, tiny_config(), 2);
  for (const auto& [name, t] : a.state) {
    INFO(name);
    CHECK(same_bits(t, b.state.at(name)));
  }
}

}  // namespace parlo::test
