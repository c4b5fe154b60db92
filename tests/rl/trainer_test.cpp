#include "rl/trainer.h"

#include <atomic>
#include <optional>

#include "tensor/device_memory.h"
#include "tensor/parallel.h"
#include "tests/rl/trainer_bench.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("the first update sees ratio 1 exactly: every noise, guidance, KL") {
  for (const FlowNoise noise : {FlowNoise::sde, FlowNoise::cps, FlowNoise::dance}) {
    for (const double guidance : {1.0, 3.0}) {
      for (const double kl : {0.0, 0.01}) {
        Bench bench;
        GrpoConfig c = tiny_config();
        c.rollout.noise = noise;
        c.rollout.guidance = guidance;
        c.rollout.detach_uncond = kl > 0;
        c.rollout.micro_batch = 5;
        c.loss.kl_beta = kl;
        GrpoTrainer& trainer = bench.start(c);
        for (int i = 0; i < 3; ++i) {
          const StepStats s = trainer.step();
          CHECK(s.first_ratio_deviation == 0.0);
          CHECK(s.ratio_max_deviation > 0.0);  // of the second update
          CHECK(s.bad_updates == 0);
          CHECK((s.kl > 0) == (kl > 0));
          CHECK(s.grad_norm > 0);
          CHECK(s.group_size == 4);
          CHECK(s.groups == 3);
        }
      }
    }
  }
}

TEST_CASE("detaching the unconditional branch changes the gradient, not the loss") {
  double loss[2], norm[2];
  for (const bool detach : {false, true}) {
    Bench bench;
    GrpoConfig c = tiny_config();
    c.rollout.guidance = 3.0;
    c.rollout.detach_uncond = detach;
    c.updates_per_rollout = 1;
    const StepStats s = bench.start(c).step();
    loss[detach] = s.loss;
    norm[detach] = s.grad_norm;
  }
  CHECK(loss[0] == loss[1]);
  CHECK(std::abs(norm[0] - norm[1]) > 1e-3 * norm[0]);
}

TEST_CASE("equal bits for any number of threads") {
  std::optional<std::vector<std::pair<std::string, Tensor>>> first;
  const int before = num_threads();
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    Bench bench;
    GrpoConfig c = tiny_config();
    c.loss.kl_beta = 0.01;
    GrpoTrainer& trainer = bench.start(c);
    for (int i = 0; i < 4; ++i) trainer.step();
    const auto result = snapshot(bench.adapter);
    if (!first) first = result;
    CHECK(same_bits(*first, result));
  }
  set_num_threads(before);
}

TEST_CASE("blocks that are computed again: the same bits in less memory") {
  std::vector<std::pair<std::string, Tensor>> kept;
  int64_t most = 0;
  for (const bool again : {false, true}) {
    Bench bench;
    bench.model.transformer().checkpoint_blocks = again;
    GrpoConfig c = tiny_config();
    c.rollout.guidance = 1.5;
    c.loss.kl_beta = 0.01;
    GrpoTrainer& trainer = bench.start(c);
    const int64_t before = memory_stats({}).current_bytes;
    cpu_memory::reset_peak();
    for (int i = 0; i < 2; ++i) trainer.step();
    const int64_t peak = memory_stats({}).peak_bytes - before;
    if (again) {
      CHECK(same_bits(kept, snapshot(bench.adapter)));
      CHECK(static_cast<double>(peak) < 0.8 * static_cast<double>(most));
    }
    kept = snapshot(bench.adapter);
    most = peak;
  }
}

TEST_CASE("micro-batches change a step by rounding alone") {
  std::vector<std::map<std::string, std::vector<double>>> gradients;
  for (const int64_t micro : {32, 5, 1}) {
    Bench bench;
    GrpoConfig c = tiny_config();
    c.rollout.micro_batch = micro;
    c.updates_per_rollout = 1;
    c.max_grad_norm = 0;
    bench.start(c).step();
    gradients.push_back(gradients_of(bench));
  }
  for (size_t i = 1; i < gradients.size(); ++i) {
    double error = 0, size = 0;
    for (const auto& [name, g] : gradients[0]) {
      size = std::max(size, norm_of(g));
      for (size_t k = 0; k < g.size(); ++k) {
        error = std::max(error, std::abs(g[k] - gradients[i].at(name)[k]));
      }
    }
    CHECK(error <= 1e-5 * size);
  }
}

TEST_CASE("proof of life: an analytic reward rises") {
  for (const FlowNoise noise : {FlowNoise::cps, FlowNoise::sde}) {
    Bench bench;
    GrpoConfig c = tiny_config();
    c.rollout.noise = noise;
    c.prompts_per_step = 5;
    c.group_size = 8;
    c.lr = 2e-2;
    GrpoTrainer& trainer = bench.start(c);
    std::vector<double> rewards;
    for (int i = 0; i < 24; ++i) rewards.push_back(trainer.step().reward);
    double start = 0, end = 0;
    for (size_t i = 0; i < 4; ++i) {
      start += rewards[i] / 4;
      end += rewards[rewards.size() - 1 - i] / 4;
    }
    MESSAGE("redness from ", start, " to ", end);
    CHECK(end > start + 0.05);
  }
}

namespace {

// Root mean square distance of the velocity from that of the base.
double distance_from_base(Bench& bench) {
  const NoGrad guard;
  Shape shape = bench.pipeline->latent_shape();
  shape.insert(0, 4);
  const Condition c = bench.pipeline->encode(std::vector<std::string>(4, "red circle"));
  const auto velocity = [&] {
    return bench.pipeline->velocity(Var(random_tensor(shape, 9)), std::vector<double>(4, 0.5), c)
        .value()
        .to_vector();
  };
  const std::vector<double> now = velocity();
  const AdapterDisabled off(bench.pipeline->linears());
  const std::vector<double> base = velocity();
  double squares = 0;
  for (size_t i = 0; i < now.size(); ++i) squares += std::pow(now[i] - base[i], 2);
  return std::sqrt(squares / static_cast<double>(now.size()));
}

}  // namespace

TEST_CASE("the KL term keeps the model nearer to the base") {
  double distance[2];
  for (const bool kl : {false, true}) {
    Bench bench;
    bench.adapter = LoraAdapter::create(bench.model.linears(), tiny_lora(), RandomKey(2));
    GrpoConfig c = tiny_config();
    c.loss.kl_beta = kl ? 1.0 : 0.0;
    GrpoTrainer& trainer = bench.start(c);
    for (int i = 0; i < 10; ++i) trainer.step();
    distance[kl] = distance_from_base(bench);
  }
  MESSAGE("distance ", distance[0], " without, ", distance[1], " with KL");
  CHECK(distance[0] > 0);
  CHECK(distance[1] < 0.7 * distance[0]);
}

TEST_CASE("the KL term takes another model as reference") {
  Bench bench;
  const auto same = tiny_pipeline();
  GrpoConfig c = tiny_config();
  c.loss.kl_beta = 0.1;
  const double disabled = bench.start(c).step().kl;
  Bench other;
  const double separate = other.start(c, same.get()).step().kl;
  CHECK(disabled == separate);
  Bench third;
  const auto different = tiny_pipeline(8, 99);
  CHECK(third.start(c, different.get()).step().kl > 2 * disabled);
}

TEST_CASE("a resumed trainer continues with the same bits") {
  const TemporaryFolder folder;
  GrpoConfig c = tiny_config();
  c.ema_decay = 0.9;
  Bench whole;
  GrpoTrainer& trainer = whole.start(c);
  for (int i = 0; i < 2; ++i) trainer.step();
  save_safetensors(folder / "state.safetensors", trainer.state());
  StepStats expected;
  for (int i = 0; i < 3; ++i) expected = trainer.step();

  Bench resumed;
  resumed.adapter = trained_adapter(resumed.model.linears(), 77);  // the state replaces it
  GrpoTrainer& again = resumed.start(c);
  NamedTensors state;
  const SafeTensors file = SafeTensors::open(folder / "state.safetensors");
  for (const std::string& name : file.names()) state.emplace_back(name, file.get(name));
  again.load_state(state);
  CHECK(again.steps() == 2);
  StepStats stats;
  for (int i = 0; i < 3; ++i) stats = again.step();
  CHECK(stats.step == expected.step);
  CHECK(stats.reward == expected.reward);
  CHECK(stats.loss == expected.loss);
  CHECK(same_bits(again.state(), trainer.state()));

  state.pop_back();
  CHECK(contains(message_of([&] { again.load_state(state); }), "lacks"));
}

TEST_CASE("other seeds, iterations and experts draw other samples") {
  std::vector<double> rewards;
  for (const ExpertKey& key : {ExpertKey{1, 1, "red"}, ExpertKey{2, 1, "red"},
                               ExpertKey{1, 2, "red"}, ExpertKey{1, 1, "blue"}}) {
    Bench bench;
    GrpoTrainer trainer(bench.model, bench.adapter, bench.rewards, bench.prompts, tiny_config(),
                        key);
    rewards.push_back(trainer.step().reward);
  }
  std::sort(rewards.begin(), rewards.end());
  CHECK(std::adjacent_find(rewards.begin(), rewards.end()) == rewards.end());
}

TEST_CASE("every prompt is drawn once before one comes again") {
  Bench bench;
  std::vector<int64_t> seen;
  bench.rewards[0].reward.score = [&](std::span<const Image> images,
                                      std::span<const Prompt> prompts) {
    for (size_t i = 0; i < prompts.size(); i += 4) {
      seen.push_back(prompts[i].id);
      for (size_t g = 1; g < 4; ++g) CHECK(prompts[i + g].id == prompts[i].id);
    }
    std::vector<double> out;
    for (size_t i = 0; i < images.size(); ++i) out.push_back(dominance(images[i], 0));
    return out;
  };
  GrpoTrainer& trainer = bench.start(tiny_config());
  for (int i = 0; i < 5; ++i) trainer.step();  // 15 draws of 5 prompts
  REQUIRE(seen.size() == 15);
  for (size_t pass = 0; pass < 3; ++pass) {
    std::vector<int64_t> ids(seen.begin() + static_cast<std::ptrdiff_t>(5 * pass),
                             seen.begin() + static_cast<std::ptrdiff_t>(5 * pass + 5));
    std::sort(ids.begin(), ids.end());
    CHECK((ids == std::vector<int64_t>{0, 1, 2, 3, 4}));
  }
}

TEST_CASE("prompts are prepared before they are encoded, many steps at once") {
  Bench bench;
  GrpoConfig c = tiny_config();
  c.rollout.guidance = 2.0;
  GrpoTrainer& trainer = bench.start(c);
  for (int i = 0; i < 66; ++i) trainer.step();
  CHECK(bench.model.unprepared == 0);
  CHECK(bench.model.prepares == 2);
}

TEST_CASE("same_noise starts a group from one latent") {
  for (const bool same : {false, true}) {
    Bench bench;
    GrpoConfig c = tiny_config();
    c.same_noise = same;
    bench.start(c).step();
    const Tensor& x = bench.model.inputs[0];
    CHECK(same_bits(x.slice(0, 0, 1), x.slice(0, 1, 2)) == same);
    CHECK(!same_bits(x.slice(0, 0, 1), x.slice(0, 4, 5)));  // another group
    const Tensor& end = bench.model.decoded[0];
    CHECK(!same_bits(end.slice(0, 0, 1), end.slice(0, 1, 2)));
  }
}

TEST_CASE("a step with a reward or gradient that is not finite is skipped and counted") {
  for (const bool by_reward : {true, false}) {
    Bench bench;
    std::atomic<bool> broken{false};
    bench.rewards[0].reward = reward_of_judge("redness", [&](const Image& i, const Prompt& p) {
      return broken && p.id == 1 ? std::nan("") : dominance(i, 0);
    });
    GrpoConfig c = tiny_config();
    c.prompts_per_step = 5;  // prompt 1 is in every step
    c.max_bad_steps = 6;
    c.ema_decay = 0.5;
    GrpoTrainer& trainer = bench.start(c);
    trainer.step();
    const NamedTensors state = trainer.state();
    NamedTensors before;
    for (const auto& [name, t] : state) before.emplace_back(name, t.clone());
    broken = by_reward;
    bench.model.spoil_training = !by_reward;
    const StepStats bad = trainer.step();
    CHECK(bad.bad_updates == (by_reward ? 1 : 2));
    CHECK(bad.loss == 0);
    CHECK(bad.ratio_mean == 1);
    CHECK(trainer.steps() == 2);
    const std::map<std::string, Tensor> after = tensors_of(trainer);
    for (const auto& [name, t] : before) {
      if (name != "trainer.step") CHECK(same_bits(t, after.at(name)));
    }
    // A good step ends the row.
    broken = bench.model.spoil_training = false;
    CHECK(trainer.step().bad_updates == 0);
    broken = by_reward;
    bench.model.spoil_training = !by_reward;
    const auto intact = snapshot(bench.adapter);
    const std::string message = message_of([&] {
      for (int i = 0; i < 10; ++i) trainer.step();
    });
    INFO(message);
    CHECK(contains(message, "6 updates in a row"));
    CHECK(contains(message, by_reward ? "reward" : "gradient"));
    CHECK(trainer.steps() == (by_reward ? 8 : 5));
    CHECK(same_bits(intact, snapshot(bench.adapter)));
  }
}

TEST_CASE("equal rewards everywhere: no update and no NaN") {
  Bench bench;
  bench.rewards[0].reward =
      reward_of_judge("constant", [](const Image&, const Prompt&) { return 0.1; });
  GrpoConfig c = tiny_config();
  c.weight_prox = 0.1;
  const auto before = snapshot(bench.adapter);
  GrpoTrainer& trainer = bench.start(c);
  const StepStats s = trainer.step();
  CHECK(s.zero_std_groups == 3);
  CHECK(s.bad_updates == 0);
  CHECK(s.loss == 0);
  CHECK(s.ratio_mean == 1);
  CHECK(s.grad_norm == 0);
  CHECK(same_bits(before, snapshot(bench.adapter)));
}

TEST_CASE("EMA weights are the warmed-up average and swap in and out") {
  Bench bench;
  GrpoConfig c = tiny_config();
  c.updates_per_rollout = 1;
  c.ema_decay = 0.15;
  const auto before = snapshot(bench.adapter);
  GrpoTrainer& trainer = bench.start(c);
  std::vector<std::vector<double>> average;
  for (const auto& [name, t] : before) average.push_back(t.to_vector());
  for (int t = 0; t < 3; ++t) {
    trainer.step();
    const double decay = std::min((1.0 + t) / (10.0 + t), 0.15);  // 0.1, 0.15, 0.15
    for (size_t i = 0; i < average.size(); ++i) {
      const std::vector<double> now = bench.adapter.params()[i].var.value().to_vector();
      for (size_t k = 0; k < now.size(); ++k) {
        average[i][k] = decay * average[i][k] + (1 - decay) * now[k];
      }
    }
  }
  const auto raw = snapshot(bench.adapter);
  trainer.swap_ema();
  const auto ema = snapshot(bench.adapter);
  for (size_t i = 0; i < ema.size(); ++i) {
    check_close(ema[i].second, Tensor::from(average[i], ema[i].second.shape()), 1e-6);
  }
  CHECK(!same_bits(ema, raw));
  trainer.swap_ema();
  CHECK(same_bits(raw, snapshot(bench.adapter)));
}

TEST_CASE("prox adds its weight times the adapter to the gradient") {
  std::map<std::string, std::vector<double>> gradient[2];
  std::vector<std::pair<std::string, Tensor>> start;
  for (const bool prox : {false, true}) {
    Bench bench;
    GrpoConfig c = tiny_config();
    c.updates_per_rollout = 1;
    c.max_grad_norm = 0;
    c.weight_prox = prox ? 0.5 : 0.0;
    start = snapshot(bench.adapter);
    bench.start(c).step();
    gradient[prox] = gradients_of(bench);
  }
  for (const auto& [name, t] : start) {
    const std::vector<double> w = t.to_vector();
    for (size_t k = 0; k < w.size(); ++k) {
      const double pull = gradient[1].at(name)[k] - gradient[0].at(name)[k];
      CHECK(std::abs(pull - 0.5 * w[k]) < 1e-5);
    }
  }
}

TEST_CASE("in a mixture a prompt needs one reward that can judge it") {
  const auto only = [](int channel, int64_t parity) {
    Reward r = colour_reward(channel);
    r.why_not = [=](const Prompt& p) { return p.id % 2 == parity ? "" : "is not mine"; };
    return r;
  };
  Bench bench;
  bench.rewards = {{only(0, 0), 0.5}, {only(1, 1), 0.5}};
  GrpoConfig all = tiny_config();
  all.prompts_per_step = 5;  // all of them, so both rewards have something to judge
  CHECK(bench.start(all).step().rewards.size() == 2);
  bench.rewards = {{only(0, 0), 0.5}, {only(1, 0), 0.5}};
  CHECK(contains(message_of([&] { bench.start(tiny_config()); }), "prompt 1"));
  bench.rewards = {{only(0, 0), 1.0}};
  CHECK(contains(message_of([&] { bench.start(tiny_config()); }), "cannot judge 2 of 5"));
}

TEST_CASE("mixtures weigh the rewards") {
  Bench bench;
  bench.rewards = {{colour_reward(0), 0.25}, {colour_reward(2), 0.75}};
  const StepStats s = bench.start(tiny_config()).step();
  CHECK(s.reward ==
        doctest::Approx(0.25 * s.rewards.at("redness") + 0.75 * s.rewards.at("blueness")));
}

TEST_CASE("settings that cannot work are refused by name") {
  const auto message = [](auto change) {
    GrpoConfig c = tiny_config();
    change(c);
    return message_of([&] { validate(c); });
  };
  CHECK(message([](GrpoConfig&) {}).empty());
  CHECK(contains(message([](GrpoConfig& c) { c.prompts_per_step = 0; }), "prompts per step"));
  CHECK(contains(message([](GrpoConfig& c) { c.group_size = 1; }), "group size"));
  CHECK(contains(message([](GrpoConfig& c) { c.updates_per_rollout = 0; }), "updates"));
  CHECK(contains(message([](GrpoConfig& c) { c.updates_per_rollout = 13; }), "updates"));
  CHECK(contains(message([](GrpoConfig& c) { c.lr = std::nan(""); }), "learning rate"));
  CHECK(contains(message([](GrpoConfig& c) { c.lr = 0; }), "learning rate"));
  CHECK(contains(message([](GrpoConfig& c) { c.loss.clip_high = 0; }), "clip"));
  CHECK(contains(message([](GrpoConfig& c) { c.loss.kl_beta = -1; }), "KL"));
  CHECK(contains(message([](GrpoConfig& c) { c.ema_decay = 1; }), "EMA"));
  CHECK(contains(message([](GrpoConfig& c) { c.advantage.clip = 0; }), "advantage clip"));
  CHECK(contains(message([](GrpoConfig& c) { c.max_bad_steps = 0; }), "skipped"));
  Bench bench;
  bench.prompts.clear();
  CHECK(contains(message_of([&] { bench.start(tiny_config()); }), "no prompts"));
}
