#include "rl/mapreduce.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "rl/pareto.h"
#include "rl/run_files.h"
#include "tensor/file.h"
#include "tensor/parallel.h"

namespace parlo {

// One adapter's training within an iteration.
struct MapReduce::Expert {
  std::string name;   // the reward's, or "morl"
  std::string label;  // "iteration_1_ocr": its files
  int64_t iteration = 1;
  int64_t steps = 0;
  double lr = 0, kl_beta = 0;
  std::vector<WeightedReward> rewards;
  std::vector<Prompt> prompts;
};

void validate(const MapReduceConfig& c, const std::vector<RewardTask>& tasks) {
  if (tasks.empty()) throw UsageError("train: no reward given; use --rewards a,b,c");
  if (c.iterations < 1) {
    throw UsageError(concat("train: iterations is ", c.iterations, ", expected at least 1"));
  }
  if (!c.weights.empty() && c.weights.size() != tasks.size()) {
    throw UsageError(
        concat("train: ", c.weights.size(), " merge weights for ", tasks.size(), " rewards"));
  }
  double sum = 0;
  for (double w : c.weights) {
    if (!(w >= 0) || !std::isfinite(w)) {
      throw UsageError(concat("train: merge weight ", w, ", expected a number >= 0"));
    }
    sum += w;
  }
  if (!c.weights.empty() && sum <= 0) throw UsageError("train: merge weights sum to 0");
  const auto at_least = [](const char* what, int64_t got, int64_t least) {
    if (got < least) {
      throw UsageError(concat("train: ", what, " is ", got, ", expected at least ", least));
    }
  };
  at_least("LoRA rank", c.lora.r, 1);
  at_least("evaluation sampler steps", c.eval.steps, 1);
  at_least("steps between checkpoints", c.checkpoint_every, 1);
  at_least("weight grid", c.weight_grid, 0);
  at_least("steps between evaluations", c.eval_every, 0);
  if (c.eval_every > 0 && c.parallel) {
    throw UsageError(
        "train: experts that train side by side are not scored on the way; drop "
        "--eval-every or --parallel");
  }
  double morl = 0;
  for (const RewardTask& t : tasks) {
    if (!(t.morl_weight >= 0) || !std::isfinite(t.morl_weight)) {
      throw UsageError(concat("train: morl weight of ", t.reward.name, " is ", t.morl_weight,
                              ", expected a number >= 0"));
    }
    morl += t.morl_weight;
  }
  if (morl <= 0) throw UsageError("train: morl weights sum to 0");
  if (c.choose_weights && c.weight_grid < 1) {
    throw UsageError("train: choosing weights needs a weight grid of at least 1 interval");
  }
  for (const RewardTask& t : tasks) {
    const int64_t iterations = c.method == Method::mapreduce ? c.iterations : 1;
    if (t.steps < iterations) {
      throw UsageError(concat("train: ", t.steps, " steps for reward ", t.reward.name,
                              ", expected at least one for each of ", iterations, " iterations"));
    }
    validate_prompts(t.reward, t.train);
    validate_prompts(t.reward, t.held_out);
    GrpoConfig g = c.grpo;
    g.lr = t.lr;
    g.loss.kl_beta = t.kl_beta.value_or(g.loss.kl_beta);
    validate(g);
  }
}

MapReduce::MapReduce(std::function<std::unique_ptr<FlowModel>()> make_model,
                     std::vector<RewardTask> tasks, const MapReduceConfig& config,
                     std::filesystem::path folder, RunObserver observer)
    : make_model_(std::move(make_model)),
      tasks_(std::move(tasks)),
      config_(config),
      folder_(std::move(folder)),
      observer_(std::move(observer)) {
  if (config_.method != Method::mapreduce) config_.iterations = 1;
  validate(config_, tasks_);
  for (const RewardTask& t : tasks_) eval_sets_.push_back({t.reward, t.held_out});
  const auto n = static_cast<double>(tasks_.size());
  if (config_.weights.empty()) config_.weights.assign(tasks_.size(), 1.0 / n);
  const double sum = std::accumulate(config_.weights.begin(), config_.weights.end(), 0.0);
  for (double& w : config_.weights) w /= sum;
}

// Steps split evenly, the first iterations take the rest.
static int64_t share_of(int64_t steps, int64_t iterations, int64_t iteration) {
  return steps / iterations + (iteration <= steps % iterations ? 1 : 0);
}

std::vector<MapReduce::Expert> MapReduce::experts_of(int64_t iteration) const {
  std::vector<Expert> out;
  const auto label = [&](const std::string& name) {
    return concat("iteration_", iteration, "_", name);
  };
  if (config_.method != Method::morl) {
    for (const RewardTask& t : tasks_) {
      out.push_back({t.reward.name,
                     label(t.reward.name),
                     iteration,
                     share_of(t.steps, config_.iterations, iteration),
                     t.lr,
                     t.kl_beta.value_or(config_.grpo.loss.kl_beta),
                     {{t.reward, 1.0}},
                     t.train});
    }
    return out;
  }
  Expert e{"morl", label("morl"), iteration, 0, 0.0, 0.0, {}, {}};
  double weights = 0, lr = 0;
  for (const RewardTask& t : tasks_) weights += t.morl_weight;
  for (const RewardTask& t : tasks_) {
    e.steps += t.steps;
    const auto count = static_cast<double>(tasks_.size());
    lr += std::log(t.lr) / count;
    e.kl_beta += t.kl_beta.value_or(config_.grpo.loss.kl_beta) / count;
    e.rewards.push_back({t.reward, t.morl_weight / weights});
  }
  e.lr = std::exp(lr);  // geometric mean of the experts' rates
  e.prompts = mixed_prompts(tasks_);
  if (config_.morl_mixed_data) e.rewards = {{reward_by_source(tasks_), 1.0}};
  out.push_back(std::move(e));
  return out;
}

std::unique_ptr<FlowModel> MapReduce::current_model() const {
  auto model = make_model_();
  for (const AdapterFile& file : folded_) {
    const std::vector<WeightedAdapter> one{{&file.modules, 1.0}};
    fold_adapters(model->linears(), one);
  }
  return model;
}

AdapterFile MapReduce::train(const Expert& expert, FlowModel& model) {
  const auto done = folder_ / "adapters" / expert.label;
  const auto state_file = folder_ / "checkpoints" / (expert.label + ".safetensors");
  // The configuration is written last: where it is, the adapter is whole.
  if (std::filesystem::exists(done / "adapter_config.json")) {
    for (int64_t step = 1; step < expert.steps; ++step) {
      score_on_the_way(expert, step, model, true);
    }
    return read_adapter(done);
  }

  // A mean of factors only means something when all experts start from one A, as the published
  // jobs do, which draw it from the same seed.
  const RandomKey start =
      RandomKey(config_.seed).fold("lora").fold(static_cast<uint64_t>(expert.iteration));
  const RandomKey key = config_.factor_mean ? start : start.fold(expert.name);
  LoraAdapter adapter = live_.modules.empty()
                            ? LoraAdapter::create(model.linears(), config_.lora, key)
                            : LoraAdapter::from_file(model.linears(), copy_of(live_));
  GrpoConfig grpo = config_.grpo;
  grpo.lr = expert.lr;
  grpo.loss.kl_beta = expert.kl_beta;
  // Experts side by side share a GPU's stream, which only one may record.
  if (config_.parallel) grpo.rollout.record = false;
  std::unique_ptr<FlowModel> reference;
  if (config_.anchor_base && grpo.loss.kl_beta > 0 && !folded_.empty()) reference = make_model_();
  GrpoTrainer trainer(model, adapter, expert.rewards, expert.prompts, grpo,
                      {config_.seed, static_cast<uint64_t>(expert.iteration), expert.name},
                      reference.get());
  if (std::filesystem::exists(state_file)) {
    trainer.load_state(load_tensors(state_file));
  } else if (expert.iteration > 1 && config_.carry != OptimizerCarry::reset) {
    carry_optimizer(folder_ / "checkpoints", expert.name, expert.iteration - 1, names_of(tasks_),
                    config_.carry == OptimizerCarry::average, trainer.optimizer());
  }
  for (int64_t step = 1; step <= trainer.steps(); ++step) {
    score_on_the_way(expert, step, model, true);
  }
  while (trainer.steps() < expert.steps) {
    const StepStats stats = trainer.step();
    {
      const std::lock_guard lock(observing_);
      observer_.on_step({expert.iteration, expert.name, stats});
    }
    // Before the checkpoint: a run killed in between takes the step, and this, again.
    trainer.swap_ema();
    score_on_the_way(expert, trainer.steps(), model, false);
    trainer.swap_ema();
    if (trainer.steps() % config_.checkpoint_every == 0 || trainer.steps() == expert.steps) {
      save_safetensors(state_file, trainer.state());
    }
  }
  trainer.swap_ema();
  adapter.save(done);
  return copy_of(adapter.to_file());
}

// Scores the expert as it is after `step`, where that is due; what is past is only read from file.
void MapReduce::score_on_the_way(const Expert& expert, int64_t step, FlowModel& model, bool past) {
  if (config_.eval_every == 0 || step % config_.eval_every != 0) return;
  if (step == expert.steps) return;  // scored when all are done
  const std::string label =
      concat(config_.method == Method::morl ? "" : "expert:", expert.name, "@", step);
  const auto file = folder_ / "checkpoints" / "evals" / score_file_name(expert.iteration, label);
  if (past && !std::filesystem::exists(file)) return;
  score(expert.iteration, label, model);
}

std::vector<AdapterFile> MapReduce::map(int64_t iteration) {
  const std::vector<Expert> experts = experts_of(iteration);
  std::vector<AdapterFile> out(experts.size());
  if (config_.parallel && experts.size() > 1) {
    // Inside a chunk every kernel runs serially: one thread an expert, same results.
    parallel_for(static_cast<int64_t>(experts.size()), 1, [&](int64_t i, int64_t) {
      const auto model = current_model();
      out[static_cast<size_t>(i)] = train(experts[static_cast<size_t>(i)], *model);
    });
  } else {
    const auto model = current_model();
    for (size_t i = 0; i < experts.size(); ++i) out[i] = train(experts[i], *model);
  }
  if (config_.evaluate_experts && (config_.method != Method::morl)) {
    for (size_t i = 0; i < experts.size(); ++i) {
      std::vector<double> alone(experts.size(), 0.0);
      alone[i] = 1.0;
      score_merge(iteration, "expert:" + experts[i].name, out, alone);
    }
  }
  return out;
}

// In the order of the tasks.
std::vector<double> MapReduce::means_of(const ScoreTable& scores) const {
  std::vector<double> means;
  for (const RewardTask& t : tasks_) means.push_back(scores.at(t.reward.name).mean);
  return means;
}

// Against the base; 0 where it is not defined (more than six rewards).
double MapReduce::hypervolume_of(const ScoreTable& scores) const {
  if (tasks_.size() > 6) return 0.0;
  return hypervolume({means_of(scores)}, means_of(result_.evals.at(0).scores));
}

double MapReduce::score(int64_t iteration, const std::string& label,
                        const std::function<ScoreTable()>& measure) {
  const auto file = folder_ / "checkpoints" / "evals" / score_file_name(iteration, label);
  EvalEvent event{iteration, label, {}, 0.0};
  const bool known = std::filesystem::exists(file);
  event.scores = known ? load_scores(file) : measure();
  result_.evals.push_back(event);  // the first is the base, the reference of all hypervolumes
  event.hypervolume = hypervolume_of(event.scores);
  result_.evals.back().hypervolume = event.hypervolume;
  // The line is logged before the file says so: a crash between repeats the event, and observers
  // drop the second of equal ones.
  if (!known) {
    observer_.on_eval(event);
    save_scores(file, event.scores);
  }
  return event.hypervolume;
}

double MapReduce::score(int64_t iteration, const std::string& label, FlowModel& model) {
  return score(iteration, label, [&] { return evaluate(model, eval_sets_, config_.eval); });
}

// An expert alone is also a corner of the simplex: what was scored with equal weights is not again.
double MapReduce::score_merge(int64_t iteration, const std::string& label,
                              const std::vector<AdapterFile>& adapters,
                              const std::vector<double>& weights) {
  const double volume = score(iteration, label, [&] {
    const auto seen = scored_merges_.find({iteration, weights});
    if (seen != scored_merges_.end()) return seen->second;
    const auto model = current_model();
    fold_adapters(model->linears(), weighted(adapters, weights));
    return evaluate(*model, eval_sets_, config_.eval);
  });
  scored_merges_[{iteration, weights}] = result_.evals.back().scores;
  return volume;
}

std::vector<double> MapReduce::best_weights(int64_t iteration,
                                            const std::vector<AdapterFile>& adapters) {
  // The fixed weights stay when no merge is better than the base on every reward.
  std::vector<double> best = config_.weights;
  double best_volume = 0;
  for (const std::vector<double>& w :
       simplex_grid(static_cast<int>(adapters.size()), static_cast<int>(config_.weight_grid))) {
    const double volume = score_merge(iteration, "soup:" + join_weights(w), adapters, w);
    if (volume > best_volume) {
      best_volume = volume;
      best = w;
    }
  }
  return config_.choose_weights ? best : config_.weights;
}

// Whether a merge may replace the last accepted model. Where both have hypervolume 0 against the
// base only domination tells which is better.
bool MapReduce::keeps_front(const EvalEvent& merged) const {
  const EvalEvent* before = &result_.evals.at(0);
  for (const MergeEvent& m : result_.merges) {
    for (const EvalEvent& e : result_.evals) {
      if (m.accepted && e.iteration == m.iteration && e.model == "merged") before = &e;
    }
  }
  return merged.hypervolume >= before->hypervolume &&
         !dominates(means_of(before->scores), means_of(merged.scores));
}

void MapReduce::reduce(int64_t iteration, const std::vector<AdapterFile>& adapters) {
  std::vector<double> weights = config_.weights;
  if (adapters.size() == 1) weights = {1.0};
  if (config_.weight_grid > 0 && adapters.size() > 1) weights = best_weights(iteration, adapters);
  const std::vector<WeightedAdapter> parts = weighted(adapters, weights);
  const AdapterModules merged =
      config_.factor_mean ? merge_factor_mean(parts) : merge_concat(parts);
  const AdapterFile file = describe_adapter(merged, adapters[0].config);

  const auto model = current_model();
  const std::vector<WeightedAdapter> one{{&file.modules, 1.0}};
  fold_adapters(model->linears(), one);
  MergeEvent event{iteration, {}, {}, true, score(iteration, "merged", *model)};
  for (const Expert& e : experts_of(iteration)) event.experts.push_back(e.name);
  event.report = report_merge(weighted(adapters, weights, true));
  event.accepted = !config_.rollback || keeps_front(result_.evals.back());
  result_.merges.push_back(event);
  observer_.on_merge(event);
  if (!event.accepted) return;
  if (config_.factor_mean) {
    live_ = copy_of(file);
  } else {
    folded_.push_back(copy_of(file));
  }
}

RunResult MapReduce::run() {
  make_folders(folder_ / "checkpoints" / "evals");
  make_folders(folder_ / "adapters");
  {
    const auto base = make_model_();
    score(0, "base", *base);
  }
  for (int64_t k = 1; k <= config_.iterations; ++k) {
    const std::vector<AdapterFile> adapters = map(k);
    if (config_.method == Method::single) return result_;
    reduce(k, adapters);
  }
  // theta_K - theta_0 as one adapter: the ranks of all iterations add up.
  std::vector<AdapterFile> all = folded_;
  if (!live_.modules.empty()) all.push_back(live_);
  if (!all.empty()) {
    const AdapterModules total = merge_concat(weighted(all, std::vector<double>(all.size(), 1.0)));
    make_folders(folder_ / "adapters" / "merged");
    write_adapter(folder_ / "adapters" / "merged", describe_adapter(total, config_.lora));
  }
  return result_;
}

}  // namespace parlo
