#include "tests/rl/mapreduce_bench.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("one iteration: the merge is the weighted sum of the experts' updates") {
  for (int n = 1; n <= 3; ++n) {
    const TemporaryFolder folder;
    MapReduceConfig config = tiny_run();
    if (n == 3) config.weights = {2, 1, 1};  // normalised
    const RunResult result = run_in(folder, tiny_tasks(n), config);

    Deltas expected, merged, first;
    const char* names[] = {"redness", "greenness", "blueness"};
    for (int i = 0; i < n; ++i) {
      const double w = n == 3 ? (i == 0 ? 0.5 : 0.25) : 1.0 / n;
      const AdapterFile expert = adapter_of(folder, concat("iteration_1_", names[i]));
      add_delta(expected, expert, w);
      if (i == 0) add_delta(first, expert, 1.0);
    }
    add_delta(merged, adapter_of(folder, "merged"), 1.0);
    CHECK(distance(merged, expected) < 1e-5);
    if (n > 1) CHECK(distance(merged, first) > 1e-2);  // or the test shows nothing

    REQUIRE(result.merges.size() == 1);
    CHECK(result.merges[0].accepted);
    CHECK(result.merges[0].experts.size() == static_cast<size_t>(n));
    CHECK(result.merges[0].report.delta_norms.size() == static_cast<size_t>(n));
    CHECK(labels_of(result).front() == "0 base");
    CHECK(labels_of(result).back() == "1 merged");
    CHECK(labels_of(result).size() == static_cast<size_t>(2 + n));
    CHECK(result.evals[0].scores.size() == static_cast<size_t>(n));
  }
}

TEST_CASE("two iterations: the result is the sum of both merges, in an adapter and folded") {
  const TemporaryFolder folder;
  const RunResult result = run_in(folder, tiny_tasks(2, 4), tiny_run(2));
  Deltas expected, merged;
  for (const char* name : {"iteration_1_redness", "iteration_1_greenness", "iteration_2_redness",
                           "iteration_2_greenness"}) {
    add_delta(expected, adapter_of(folder, name), 0.5);
  }
  const AdapterFile file = adapter_of(folder, "merged");
  add_delta(merged, file, 1.0);
  CHECK(distance(merged, expected) < 1e-5);
  CHECK(file.modules.begin()->second.a.dim(0) == 2 * 2 * 2);  // rank 2, experts, iterations

  const auto live = tiny_pipeline(), folded = tiny_pipeline(), base = tiny_pipeline();
  const LoraAdapter adapter =
      LoraAdapter::load(live->linears(), folder.path() / "adapters" / "merged");
  adapter.enable(live->linears());
  const std::vector<WeightedAdapter> one{{&file.modules, 1.0}};
  fold_adapters(folded->linears(), one);
  check_close(velocity_of(*live), velocity_of(*folded), 1e-5);
  CHECK(max_relative_error(velocity_of(*live), velocity_of(*base)) > 1e-3);

  // What was scored as the last merge is that very model.
  const EvalConfig eval = tiny_run().eval;
  std::vector<EvalSet> sets;
  for (const RewardTask& t : tiny_tasks(2)) sets.push_back({t.reward, t.held_out});
  const ScoreTable scores = evaluate(*folded, sets, eval);
  for (const auto& [name, s] : scores) {
    // Pixels are rounded to 1/255, so an error of 1e-5 moves few of them.
    CHECK(s.mean == doctest::Approx(result.evals.back().scores.at(name).mean).epsilon(1e-3));
  }
}

TEST_CASE("the second iteration trains on the folded base, with fresh adapters") {
  const TemporaryFolder folder;
  run_in(folder, tiny_tasks(1, 2), tiny_run(2));
  // Again by hand.
  const auto model = tiny_pipeline();
  const AdapterFile first = adapter_of(folder, "iteration_1_redness");
  const std::vector<WeightedAdapter> one{{&first.modules, 1.0}};
  fold_adapters(model->linears(), one);
  const MapReduceConfig c = tiny_run();
  LoraAdapter adapter = LoraAdapter::create(
      model->linears(), c.lora, RandomKey(1).fold("lora").fold(uint64_t{2}).fold("redness"));
  GrpoConfig grpo = c.grpo;
  grpo.lr = 1e-2;
  GrpoTrainer trainer(*model, adapter, {{colour_reward(0), 1.0}}, tiny_prompts(4), grpo,
                      {1, 2, "redness"});
  trainer.step();
  const AdapterFile second = adapter_of(folder, "iteration_2_redness");
  for (const auto& [name, pair] : adapter.to_file().modules) {
    CHECK(same_bits(pair.a, second.modules.at(name).a));
    CHECK(same_bits(pair.b, second.modules.at(name).b));
  }
}

TEST_CASE("experts side by side give the files of experts one after another") {
  const TemporaryFolder one, two;
  MapReduceConfig c = tiny_run(2);
  const RunResult a = run_in(one, tiny_tasks(3, 4), c);
  c.parallel = true;
  int steps = 0;
  RunObserver observer;
  observer.on_step = [&](const StepEvent&) { ++steps; };  // one at a time
  const RunResult b = run_in(two, tiny_tasks(3, 4), c, observer);
  CHECK(steps == 12);
  CHECK(adapter_files(one).size() == 2 * (6 + 1));
  CHECK((adapter_files(one) == adapter_files(two)));
  CHECK(labels_of(a) == labels_of(b));
}

TEST_CASE("a run stopped after any step ends with the same files") {
  const std::vector<RewardTask> tasks = tiny_tasks(2, 6);
  for (const OptimizerCarry carry : {OptimizerCarry::reset, OptimizerCarry::average}) {
    MapReduceConfig c = tiny_run(2);
    c.carry = carry;
    c.grpo.ema_decay = 0.5;
    const TemporaryFolder whole;
    run_in(whole, tasks, c);
    const auto expected = adapter_files(whole);
    const TemporaryFolder folder;
    RunResult result;
    int stops = 0;
    for (int attempt = 0; attempt < 30 && result.evals.empty(); ++attempt) {
      int left = 1 + attempt % 4;
      RunObserver observer;
      observer.on_step = [&](const StepEvent&) {
        if (--left == 0) throw Error("stopped");
      };
      try {
        result = run_in(folder, tasks, c, observer);
      } catch (const Error& e) {
        CHECK(std::string(e.what()) == "stopped");
        ++stops;
      }
    }
    CHECK(stops > 3);
    CHECK(!result.evals.empty());
    CHECK((adapter_files(folder) == expected));
  }
}

TEST_CASE("KL towards the original base works across folds") {
  const TemporaryFolder near, far;
  MapReduceConfig c = tiny_run(2);
  c.grpo.loss.kl_beta = 0.1;
  std::vector<double> first, second;
  for (const bool anchor : {false, true}) {
    c.anchor_base = anchor;
    RunObserver observer;
    observer.on_step = [&](const StepEvent& e) {
      CHECK(e.stats.first_ratio_deviation == 0.0);
      if (e.iteration == 2) (anchor ? second : first).push_back(e.stats.kl);
    };
    run_in(anchor ? far : near, tiny_tasks(1, 8), c, observer);
  }
  // Seen from theta_0 even the fresh adapter of iteration 2 is some way off.
  CHECK(second[0] > 2 * first[0]);
}

TEST_CASE("rewards that turn NaN end the run with its last checkpoint intact") {
  const TemporaryFolder folder;
  std::vector<RewardTask> tasks = tiny_tasks(1, 20);
  auto calls = std::make_shared<int>(0);
  const auto colour = tasks[0].reward.score;
  tasks[0].reward.score = [=](std::span<const Image> images, std::span<const Prompt> prompts) {
    std::vector<double> out = colour(images, prompts);
    if (prompts[0].id < 100 && ++*calls > 5) out[0] = std::nan("");
    return out;
  };
  MapReduceConfig c = tiny_run();
  c.checkpoint_every = 5;
  c.grpo.max_bad_steps = 4;
  int64_t bad = 0;
  RunObserver observer;
  observer.on_step = [&](const StepEvent& e) { bad += e.stats.bad_updates; };
  const std::string message = message_of([&] { run_in(folder, tasks, c, observer); });
  CHECK(contains(message, "4 updates in a row"));
  CHECK(bad == 3);  // the fourth ended the run
  CHECK(completed_steps(folder.path(), "iteration_1_redness") == 5);
  const NamedTensors state =
      load_tensors(folder.path() / "checkpoints" / "iteration_1_redness.safetensors");
  for (const auto& [name, t] : state) CHECK(all_finite(t));
  // A held-out score that is not finite has no place in a table either.
  tasks[0].reward.score = [](std::span<const Image> images, std::span<const Prompt>) {
    return std::vector<double>(images.size(), std::nan(""));
  };
  const TemporaryFolder other;
  CHECK(contains(message_of([&] { run_in(other, tasks, c); }), "reward redness is nan"));
}

TEST_CASE("settings that cannot work are refused by name") {
  const auto message = [](auto change) {
    MapReduceConfig c = tiny_run();
    std::vector<RewardTask> tasks = tiny_tasks(2);
    change(c, tasks);
    return message_of([&] { validate(c, tasks); });
  };
  using Tasks = std::vector<RewardTask>;
  CHECK(message([](MapReduceConfig&, Tasks&) {}).empty());
  CHECK(contains(message([](MapReduceConfig&, Tasks& t) { t.clear(); }), "no reward"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.iterations = 0; }), "iterations is 0"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.iterations = 9; }), "3 steps"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.weights = {1}; }), "1 merge weights"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.weights = {1, -1}; }), "-1"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.weights = {0, 0}; }), "sum to 0"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.choose_weights = true; }), "grid"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.lora.r = 0; }), "rank"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.eval.steps = 0; }), "evaluation"));
  CHECK(
      contains(message([](MapReduceConfig& c, Tasks&) { c.checkpoint_every = 0; }), "checkpoint"));
  CHECK(contains(message([](MapReduceConfig& c, Tasks&) { c.weight_grid = -1; }), "grid"));
  CHECK(contains(message([](MapReduceConfig&, Tasks& t) { t[1].lr = 0; }), "learning rate"));
  CHECK(contains(message([](MapReduceConfig&, Tasks& t) { t[1].train.clear(); }), "no prompts"));
  CHECK(contains(message([](MapReduceConfig&, Tasks& t) { t[0].morl_weight = -1; }), "morl"));
}
