// The switches of a run: baselines, other merges, weights, rollback, optimiser state.
#include "tests/rl/mapreduce_bench.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("single keeps the experts apart") {
  const TemporaryFolder folder;
  MapReduceConfig c = tiny_run(4);  // iterations are mapreduce's alone
  c.method = Method::single;
  const RunResult result = run_in(folder, tiny_tasks(2), c);
  CHECK(result.merges.empty());
  CHECK(!std::filesystem::exists(folder.path() / "adapters" / "merged"));
  const std::vector<std::string> expected{"0 base", "1 expert:redness", "1 expert:greenness"};
  CHECK(labels_of(result) == expected);
  adapter_of(folder, "iteration_1_redness");
  CHECK(completed_steps(folder.path(), "iteration_1_redness") == 3);
  CHECK(completed_steps(folder.path(), "iteration_1_nobody") == 0);
}

TEST_CASE("soup scores a grid of weights") {
  const TemporaryFolder folder;
  MapReduceConfig c = tiny_run();
  c.method = Method::soup;
  c.weight_grid = 2;
  c.evaluate_experts = false;
  const RunResult result = run_in(folder, tiny_tasks(2), c);
  const std::vector<std::string> expected{"0 base", "1 soup:1,0", "1 soup:0.5,0.5", "1 soup:0,1",
                                          "1 merged"};
  CHECK(labels_of(result) == expected);
  // The even soup is the merge.
  for (const auto& [name, s] : result.evals[4].scores) {
    CHECK(s.mean == doctest::Approx(result.evals[2].scores.at(name).mean).epsilon(1e-3));
  }
}

TEST_CASE("an expert and its corner of the grid are one model") {
  const TemporaryFolder folder;
  MapReduceConfig c = tiny_run();
  c.method = Method::soup;
  c.weight_grid = 1;
  const RunResult result = run_in(folder, tiny_tasks(2), c);
  const std::vector<std::string> expected{"0 base",     "1 expert:redness", "1 expert:greenness",
                                          "1 soup:1,0", "1 soup:0,1",       "1 merged"};
  REQUIRE(labels_of(result) == expected);
  for (const auto& [name, s] : result.evals[0].scores) {
    const auto values = [&](size_t i) { return result.evals[i].scores.at(name).values; };
    CHECK(values(3) == values(1));
    CHECK(values(4) == values(2));
    CHECK(values(1) != values(2));
  }
}

TEST_CASE("morl trains one adapter on the weighted sum with the whole budget") {
  for (const bool mixed_data : {false, true}) {
    const TemporaryFolder folder;
    MapReduceConfig c = tiny_run();
    c.method = Method::morl;
    c.morl_mixed_data = mixed_data;
    std::vector<RewardTask> tasks = tiny_tasks(2);
    tasks[0].morl_weight = 3;
    std::vector<StepEvent> steps;
    RunObserver observer;
    observer.on_step = [&](const StepEvent& e) { steps.push_back(e); };
    const RunResult result = run_in(folder, tasks, c, observer);
    REQUIRE(steps.size() == 6);
    const std::vector<std::string> expected{"0 base", "1 merged"};
    CHECK(labels_of(result) == expected);
    CHECK((result.merges[0].experts == std::vector<std::string>{"morl"}));
    for (const StepEvent& e : steps) {
      CHECK(e.expert == "morl");
      if (mixed_data) continue;
      const auto& r = e.stats.rewards;
      CHECK(e.stats.reward ==
            doctest::Approx(0.75 * r.at("redness") + 0.25 * r.at("greenness")).epsilon(1e-9));
    }
    Deltas expert, merged;
    add_delta(expert, adapter_of(folder, "iteration_1_morl"), 1.0);
    add_delta(merged, adapter_of(folder, "merged"), 1.0);
    CHECK(distance(merged, expert) == 0);
  }
}

TEST_CASE("a mixture takes turns, and every prompt remembers its list") {
  std::vector<RewardTask> tasks = tiny_tasks(2);
  tasks[0].train = tiny_prompts(2);
  tasks[1].train = tiny_prompts(3);
  const std::vector<Prompt> mixed = mixed_prompts(tasks);
  REQUIRE(mixed.size() == 5);
  const std::vector<int> order{0, 1, 0, 1, 1}, ids{0, 0, 1, 1, 2};
  for (size_t i = 0; i < mixed.size(); ++i) {
    CHECK(mixed[i].source == order[i]);
    CHECK(mixed[i].id == ids[i]);
  }
  // The same prompt in both lists is judged by the reward of the list it was drawn from.
  const Reward by_source = reward_by_source(tasks);
  Image red(2, 2);
  for (size_t i = 0; i < red.rgb.size(); i += 3) red.rgb[i] = 255;
  const std::vector<Image> images{red, red};
  const std::vector<double> scores = by_source.score(images, std::span(mixed).first(2));
  CHECK(scores[0] == 1.0);   // redness
  CHECK(scores[1] == -0.5);  // greenness
}

TEST_CASE("factor-mean mode averages A and B and goes on from there") {
  const TemporaryFolder folder;
  MapReduceConfig c = tiny_run(2);
  c.factor_mean = true;
  run_in(folder, tiny_tasks(2, 4), c);
  const AdapterFile merged = adapter_of(folder, "merged"),
                    red = adapter_of(folder, "iteration_2_redness"),
                    green = adapter_of(folder, "iteration_2_greenness"),
                    early = adapter_of(folder, "iteration_1_redness"),
                    other = adapter_of(folder, "iteration_1_greenness");
  double moved = 0, size = 0;
  for (const auto& [name, pair] : merged.modules) {
    CHECK(pair.a.dim(0) == 2);  // the rank does not grow
    const auto mean_of = [](const Tensor& x, const Tensor& y) {
      const Tensor m = Tensor::zeros_like(x);
      add_scaled(m, 0.5, x);
      add_scaled(m, 0.5, y);
      return m;
    };
    check_close(pair.a, mean_of(red.modules.at(name).a, green.modules.at(name).a), 1e-6);
    check_close(pair.b, mean_of(red.modules.at(name).b, green.modules.at(name).b), 1e-6);
    // Both began with one A, which two small steps leave in place.
    const Tensor apart = early.modules.at(name).a.clone();
    add_scaled(apart, -1.0, other.modules.at(name).a);
    CHECK(sum_squares(apart) < 0.05 * sum_squares(other.modules.at(name).a));
    // The second experts are two small steps from the first mean.
    const Tensor start = mean_of(early.modules.at(name).a, other.modules.at(name).a);
    size += sum_squares(start);
    add_scaled(start, -1.0, red.modules.at(name).a);
    moved += sum_squares(start);
  }
  CHECK(moved < 0.05 * size);
}

TEST_CASE("rollback drops a merge that is worse and keeps one that is better") {
  // Held-out scores of base, merge 1, merge 2, merge 3.
  const std::vector<std::pair<std::vector<double>, std::vector<bool>>> cases{
      {{0, -1, 2, 1}, {false, true, false}},
      {{0, 1, 1, 3}, {true, true, true}},
      {{0, -1, -2, -3}, {false, false, false}},
  };
  for (int n = 1; n <= 2; ++n) {
    for (const auto& [script, accepted] : cases) {
      const TemporaryFolder folder;
      MapReduceConfig c = tiny_run(3);
      c.rollback = true;
      c.evaluate_experts = false;
      std::vector<RewardTask> tasks = tiny_tasks(n, 3);
      for (int i = 0; i < n; ++i) tasks[static_cast<size_t>(i)].reward = scripted_reward(i, script);
      const RunResult result = run_in(folder, tasks, c);
      REQUIRE(result.merges.size() == 3);
      Deltas expected;
      bool some = false;
      for (size_t k = 0; k < 3; ++k) {
        INFO("rewards ", n, ", merge ", k + 1);
        CHECK(result.merges[k].accepted == accepted[k]);
        some = some || accepted[k];
        const char* names[] = {"redness", "greenness"};
        for (int i = 0; i < n && accepted[k]; ++i) {
          add_delta(expected, adapter_of(folder, concat("iteration_", k + 1, "_", names[i])),
                    1.0 / n);
        }
      }
      CHECK(std::filesystem::exists(folder.path() / "adapters" / "merged") == some);
      if (!some) continue;
      Deltas merged;
      add_delta(merged, adapter_of(folder, "merged"), 1.0);
      CHECK(distance(merged, expected) < 1e-5);
    }
  }
}

TEST_CASE("chosen weights are those of the best hypervolume, or the fixed ones without any") {
  // Base, three grid points (1,0) (.5,.5) (0,1), merge.
  for (const auto& [script, expected] :
       {std::pair{std::vector<double>{0, 1, 2, 3, 9}, std::vector<double>{0, 1}},
        std::pair{std::vector<double>{0, 1, 2, 1, 9}, std::vector<double>{0.5, 0.5}},
        std::pair{std::vector<double>{0, -1, -2, -3, 9}, std::vector<double>{0.75, 0.25}}}) {
    const TemporaryFolder folder;
    MapReduceConfig c = tiny_run();
    c.evaluate_experts = false;
    c.weight_grid = 2;
    c.choose_weights = true;
    c.weights = {3, 1};
    std::vector<RewardTask> tasks = tiny_tasks(2);
    for (int i = 0; i < 2; ++i) tasks[static_cast<size_t>(i)].reward = scripted_reward(i, script);
    const RunResult result = run_in(folder, tasks, c);
    CHECK(result.merges[0].report.weights == expected);
    CHECK(result.merges[0].report.delta_norms.size() == 2);
    Deltas sum, merged;
    add_delta(sum, adapter_of(folder, "iteration_1_redness"), expected[0]);
    add_delta(sum, adapter_of(folder, "iteration_1_greenness"), expected[1]);
    add_delta(merged, adapter_of(folder, "merged"), 1.0);
    CHECK(distance(merged, sum) < 1e-5);
  }
}

TEST_CASE("Adam's moments: fresh, kept, or averaged over the experts") {
  const auto steps_of = [](OptimizerCarry carry) {
    const TemporaryFolder folder;
    MapReduceConfig c = tiny_run(2);
    c.carry = carry;
    c.grpo.updates_per_rollout = 1;
    run_in(folder, tiny_tasks(2, 6), c);
    const auto state = folder.path() / "checkpoints" / "iteration_2_redness.safetensors";
    return SafeTensors::open(state).get("step").item();
  };
  CHECK(steps_of(OptimizerCarry::reset) == 3);
  CHECK(steps_of(OptimizerCarry::keep) == 6);
  CHECK(steps_of(OptimizerCarry::average) == 6);

  const TemporaryFolder folder;
  const Var w(Tensor::zeros({2}), true);
  for (const auto& [name, m] : {std::pair{"red", 1.0}, std::pair{"green", 4.0}}) {
    save_safetensors(folder / concat("iteration_1_", name, ".safetensors"),
                     {{"step", Tensor::from<int64_t>({7}, {1})},
                      {"w.m", Tensor::full({2}, m)},
                      {"w.v", Tensor::full({2}, 10 * m)}});
  }
  for (const bool average : {false, true}) {
    AdamW optimizer({{"w", w}}, {});
    carry_optimizer(folder.path(), "green", 1, {"red", "green"}, average, optimizer);
    const NamedTensors state = optimizer.state();
    CHECK(optimizer.steps() == 7);
    CHECK(state[1].second.to_vector()[0] == (average ? 2.5 : 4.0));
    CHECK(state[2].second.to_vector()[1] == (average ? 25.0 : 40.0));
  }
}
