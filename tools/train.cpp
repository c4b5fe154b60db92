// parlo train: MapReduce LoRA and its baselines on a base model.
#include "tools/train.h"

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <set>
#include <sstream>

#include "rl/rewards/png.h"
#include "tools/assets.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/progress.h"
#include "tools/report.h"
#include "tools/run_folder.h"
#include "tools/train_presets.h"
#include "tools/world/prompts.h"

namespace parlo {

namespace fs = std::filesystem;

namespace {

// "name=value" entries, or one bare value for all.
double value_for(const std::vector<std::string>& entries, const std::string& name, double fallback,
                 const char* flag) {
  double result = fallback;
  for (const std::string& entry : entries) {
    const size_t at = entry.find('=');
    if (at != std::string::npos && entry.substr(0, at) != name) continue;
    const std::string text = at == std::string::npos ? entry : entry.substr(at + 1);
    size_t used = 0;
    try {
      result = std::stod(text, &used);
    } catch (const std::exception&) {
      used = 0;
    }
    if (used == 0 || used != text.size()) {
      throw UsageError(concat(flag, " ", entry, ": expected NAME=NUMBER or NUMBER"));
    }
    if (at != std::string::npos) return result;
  }
  return result;
}

// "name=text" entries, or one bare text for all.
std::string text_for(const std::vector<std::string>& entries, const std::string& name) {
  std::string result;
  for (const std::string& entry : entries) {
    if (entry.starts_with(name + "=")) return entry.substr(name.size() + 1);
    if (entry.find('=') == std::string::npos) result = entry;
  }
  return result;
}

void check_names(const std::vector<std::string>& entries, const std::vector<std::string>& rewards,
                 const char* flag, const char* among = "--rewards") {
  for (const std::string& entry : entries) {
    const std::string name = entry.substr(0, entry.find('='));
    const bool known = std::find(rewards.begin(), rewards.end(), name) != rewards.end();
    if (entry.find('=') != std::string::npos && !known) {
      throw UsageError(concat(flag, " ", entry, ": ", name, " is not among ", among));
    }
  }
}

// Train prompts of the built-in world: every family equally often (world_prompts would give geneval
// three positions in four prompts), the largest family nearly whole.
constexpr int64_t kTrainPrompts = 3000;

// Rates that suit the built-in world with --alpha 16, tuned on train prompts; twice the rate gains
// less on ocr and geneval (measured; see README). Pure pixel statistics run away above this.
double default_lr(const std::string& reward) {
  if (reward == "geneval") return 1.5e-3;
  if (reward == "ocr" || reward == "pickscore") return 2e-3;
  return 3e-4;
}

}  // namespace

std::vector<RewardTask> make_tasks(const TrainOptions& o) {
  for (const auto& [entries, flag] :
       {std::pair{&o.lr, "--lr"}, std::pair{&o.morl_weights, "--morl-weights"},
        std::pair{&o.train_prompts, "--train-prompts"},
        std::pair{&o.eval_prompts, "--eval-prompts"}}) {
    check_names(*entries, o.rewards, flag);
  }
  check_names(o.kl, all_reward_names(), "--kl",
              "the rewards");  // a preset names those it was published with
  if (o.eval_count < 1) {
    throw UsageError(concat("--eval-count is ", o.eval_count, ", expected at least 1"));
  }
  std::vector<RewardTask> tasks;
  std::set<std::string> seen;
  for (const std::string& name : o.rewards) {
    if (!seen.insert(name).second) throw UsageError("--rewards names " + name + " twice");
    RewardTask t;
    t.reward = named_reward(name, o.clip);
    const std::string train = text_for(o.train_prompts, name);
    const std::string held_out = text_for(o.eval_prompts, name);
    t.train =
        train.empty() ? balanced_prompts(name, Split::train, kTrainPrompts) : read_prompts(train);
    const Split split = o.eval_split == "train" ? Split::train : Split::held_out;
    t.held_out =
        held_out.empty() ? balanced_prompts(name, split, o.eval_count) : read_prompts(held_out);
    t.steps = o.steps;
    t.lr = value_for(o.lr, name, default_lr(name), "--lr");
    t.kl_beta = value_for(o.kl, name, 0.0, "--kl");
    t.morl_weight = value_for(o.morl_weights, name, 1.0, "--morl-weights");
    tasks.push_back(std::move(t));
  }
  return tasks;
}

namespace {

const std::map<std::string, Method> kMethods{{"mapreduce", Method::mapreduce},
                                             {"soup", Method::soup},
                                             {"morl", Method::morl},
                                             {"single", Method::single}};
const std::map<std::string, FlowNoise> kNoises{
    {"sde", FlowNoise::sde}, {"cps", FlowNoise::cps}, {"dance", FlowNoise::dance}};
const std::map<std::string, OptimizerCarry> kCarries{{"reset", OptimizerCarry::reset},
                                                     {"keep", OptimizerCarry::keep},
                                                     {"average", OptimizerCarry::average}};

template <class T>
std::set<std::string> names_of(const std::map<std::string, T>& choices) {
  std::set<std::string> out;
  for (const auto& [name, value] : choices) out.insert(name);
  return out;
}

// A preset may have turned it on (--name=false turns it off again), which config.toml must say.
void add_switch(CLI::App& app, const std::string& name, bool& on, const std::string& help) {
  CLI::Option* flag = app.add_flag(name, on, help);
  if (on) flag->default_str("true");
}

void add_rollout_flags(CLI::App& app, TrainOptions& o) {
  RolloutConfig& r = o.run.grpo.rollout;
  app.add_option("--sampler-steps", r.steps, "Sampler steps of a rollout")->capture_default_str();
  app.add_option("--noise", o.noise, "Stochastic step: sde, cps or dance")
      ->capture_default_str()
      ->check(CLI::IsMember(names_of(kNoises)));
  app.add_option("--noise-level", r.noise_level, "Noise level a (or eta)")->capture_default_str();
  app.add_option("--window", r.window, "Stochastic, trained steps; 0: all but the last")
      ->capture_default_str();
  app.add_option("--window-low", r.window_low, "First step the window may start at")
      ->capture_default_str();
  app.add_option("--window-high", r.window_high, "Step the window must end before")
      ->capture_default_str();
  app.add_option("--timestep-fraction", r.timestep_fraction,
                 "Without a window: train the first int(fraction * steps) steps")
      ->capture_default_str();
  add_switch(app, "--detach-uncond", r.detach_uncond,
             "No gradient through the unconditional branch");
  add_switch(app, "--checkpoint-blocks", o.checkpoint_blocks,
             "Compute every block again in the backward instead of keeping its inner values: less "
             "memory, a forward more, same results");
  app.add_option("--micro-batch", r.micro_batch,
                 "Samples a pass; bounds memory, changes the rounding of gradients")
      ->capture_default_str();
}

void add_grpo_flags(CLI::App& app, TrainOptions& o) {
  GrpoConfig& g = o.run.grpo;
  app.add_option("--prompts-per-step", g.prompts_per_step, "Groups a rollout")
      ->capture_default_str();
  app.add_option("--group-size", g.group_size, "Samples a prompt")->capture_default_str();
  app.add_option("--updates", g.updates_per_rollout, "Optimiser steps a rollout")
      ->capture_default_str();
  add_switch(app, "--same-noise", g.same_noise, "One initial latent for a group");
  add_switch(app, "--global-std", g.advantage.global_std, "Advantages over the std of all samples");
  app.add_option("--clip-low", g.loss.clip_low, "Ratio clip below 1")->capture_default_str();
  app.add_option("--clip-high", g.loss.clip_high, "Ratio clip above 1")->capture_default_str();
  app.add_option("--kl", o.kl, "KL weight beta: NUMBER or NAME=NUMBER,... of any rewards")
      ->delimiter(',')
      ->capture_default_str();
  add_switch(app, "--exact-kl", g.loss.exact_kl, "Gaussian KL with |dt|, not the published code's");
  app.add_option("--prox", g.weight_prox, "L2 pull of the adapter towards 0")
      ->capture_default_str();
  app.add_option("--ema", g.ema_decay, "EMA decay of the adapter; 0: off")->capture_default_str();
  app.add_option("--ema-every", g.ema_every, "Optimiser steps between updates of the EMA")
      ->capture_default_str();
  app.add_option("--adam-eps", g.adam.eps, "Adam's epsilon")->capture_default_str();
  app.add_option("--weight-decay", g.adam.weight_decay, "AdamW's decay")->capture_default_str();
  app.add_option("--max-grad-norm", g.max_grad_norm, "Clip the gradient; 0: off")
      ->capture_default_str();
}

// FILE or NAME=FILE as config.toml keeps it: a run may be resumed from another folder.
std::string absolute_entry(const std::string& entry) {
  if (entry.empty()) return entry;
  const size_t at = entry.find('=');
  const size_t file = at == std::string::npos ? 0 : at + 1;
  return entry.substr(0, file) + fs::absolute(entry.substr(file)).lexically_normal().string();
}

void add_run_flags(CLI::App& app, TrainOptions& o) {
  MapReduceConfig& c = o.run;
  app.add_option("--method", o.method, "mapreduce, soup, morl or single")
      ->capture_default_str()
      ->check(CLI::IsMember(names_of(kMethods)));
  app.add_option("--rewards", o.rewards, "Rewards, one expert each")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--iterations", c.iterations, "Map-Reduce iterations K")->capture_default_str();
  app.add_option("--steps", o.steps, "Rollout steps an expert over the whole run")
      ->capture_default_str();
  app.add_option("--lr", o.lr, "Learning rate: NUMBER or NAME=NUMBER,...")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--weights", c.weights, "W1,W2,...: merge weights, one a reward; default uniform")
      ->delimiter(',');
  app.add_option("--weight-grid", c.weight_grid, "Score merges on a simplex grid of N intervals")
      ->capture_default_str();
  add_switch(app, "--choose-weights", c.choose_weights, "Merge with the grid's best hypervolume");
  add_switch(app, "--factor-mean", c.factor_mean, "The published code's merge: average A and B");
  add_switch(app, "--rollback", c.rollback, "Drop a merge that loses hypervolume");
  add_switch(app, "--anchor-base", c.anchor_base,
             "KL towards the original base, not the folded one");
  app.add_option("--optimizer", o.optimizer, "Adam state across iterations: reset, keep, average")
      ->capture_default_str()
      ->check(CLI::IsMember(names_of(kCarries)));
  add_switch(app, "--parallel", c.parallel, "Experts side by side, one thread each");
  add_switch(app, "--mixed-data", c.morl_mixed_data, "morl: each prompt by its own reward only");
  app.add_option("--morl-weights", o.morl_weights, "morl: NAME=NUMBER,... of the sum")
      ->delimiter(',');
  app.add_option("--rank", c.lora.r, "LoRA rank")->capture_default_str();
  app.add_option("--alpha", c.lora.lora_alpha, "LoRA alpha")->capture_default_str();
  app.add_option("--targets", o.targets,
                 "attention, attention+mlp, all-linear, re:PATTERN or names")
      ->capture_default_str();
  app.add_option("--eval-count", o.eval_count, "Held-out prompts a reward")->capture_default_str();
  // Not "!--flag" on the bool itself: config.toml would hold the opposite of its default.
  add_switch(app, "--no-score-experts", o.no_score_experts,
             "Do not score the experts of every iteration on all rewards");
  app.add_option("--eval-split", o.eval_split,
                 "Built-in prompts to score on: held-out, or train to tune settings")
      ->capture_default_str()
      ->check(CLI::IsMember({"held-out", "train"}));
  app.add_option("--eval-every", c.eval_every,
                 "Also score unfinished experts every N steps; 0: do not")
      ->capture_default_str();
  app.add_option("--eval-steps", c.eval.steps, "Sampler steps of evaluation")
      ->capture_default_str();
  app.add_option("--eval-seed", c.eval.seed, "Noise of evaluation")->capture_default_str();
  app.add_option("--checkpoint-every", c.checkpoint_every, "Rollout steps between checkpoints")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
}

}  // namespace

void add_train_flags(CLI::App& app, TrainOptions& o) {
  for (CLI::Option* flag : add_base_flags(app, o.base, o.parts)) flag->transform(absolute_entry);
  add_dtype_flag(app, o.dtype);
  add_text_flags(app, o.text)->transform(absolute_entry);
  add_picture_flags(app, o.pictures, o.guidance);
  app.add_option("--clip", o.clip, "CLIP folder of pickscore; default: the built-in world's")
      ->transform(absolute_entry);
  app.add_option("--train-prompts", o.train_prompts,
                 "NAME=FILE.jsonl or one FILE.jsonl for all rewards")
      ->delimiter(',')
      ->transform(absolute_entry);
  app.add_option("--eval-prompts", o.eval_prompts, "NAME=FILE.jsonl: its held-out prompts")
      ->delimiter(',')
      ->transform(absolute_entry);
  add_run_flags(app, o);
  add_rollout_flags(app, o);
  add_grpo_flags(app, o);
  add_common(app, o.common);
}

namespace {

std::string describe(const EvalEvent& e) {
  std::string line = concat("eval   iteration ", e.iteration, "  ", e.model, ":");
  for (const auto& [name, s] : e.scores) {
    char text[96];
    std::snprintf(text, sizeof text, "  %s %.3f +- %.3f", name.c_str(), s.mean, s.standard_error);
    line += text;
  }
  char volume[48];
  std::snprintf(volume, sizeof volume, "  hypervolume %.3g", e.hypervolume);
  return line + volume;
}

std::string describe(const MergeEvent& e) {
  char volume[48];
  std::snprintf(volume, sizeof volume, "hypervolume %.3g", e.hypervolume);
  return concat("merge  iteration ", e.iteration, ": ", e.accepted ? "accepted" : "rolled back",
                ", ", volume);
}

std::string describe(const StepEvent& e) {
  const StepStats& s = e.stats;
  char text[192];
  std::snprintf(text, sizeof text,
                "%s %lld (iteration %lld): reward %.3f  ratio %.5f (max dev %.1e)  clipped %.0f%%  "
                "grad %.2e  %.1f s",
                e.expert.c_str(), static_cast<long long>(s.step),
                static_cast<long long>(e.iteration), s.reward, s.ratio_mean, s.ratio_max_deviation,
                100 * s.clip_fraction, s.grad_norm,
                s.rollout_seconds + s.reward_seconds + s.update_seconds);
  return text;
}

// Same prompts and noise for every model of the report; prompts.txt says what each picture shows.
void write_samples(const fs::path& folder, const std::string& name, FlowModel& model,
                   const std::vector<RewardTask>& tasks, const EvalConfig& eval) {
  constexpr size_t kEach = 6;
  std::vector<Prompt> prompts;
  for (const RewardTask& t : tasks) {
    prompts.insert(
        prompts.end(), t.held_out.begin(),
        t.held_out.begin() + static_cast<std::ptrdiff_t>(std::min(kEach, t.held_out.size())));
  }
  std::string lines;
  for (size_t i = 0; i < prompts.size(); ++i) {
    lines += concat("row ", i / kEach + 1, ", column ", i % kEach + 1, ": ", prompts[i].text, "\n");
  }
  write_file(folder / "samples" / "prompts.txt", lines);
  const std::vector<Image> images = sample_images(model, prompts, eval);
  write_png(folder / "samples" / (name + ".png"), make_grid(images, kEach, 4));
}

}  // namespace

void resolve(TrainOptions& o) {
  o.run.seed = o.common.seed;
  o.run.method = kMethods.at(o.method);
  if (o.run.method != Method::mapreduce) o.run.iterations = 1;
  o.run.evaluate_experts = !o.no_score_experts;
  o.run.carry = kCarries.at(o.optimizer);
  o.run.grpo.rollout.noise = kNoises.at(o.noise);
  o.run.lora.target_modules = parse_targets(o.targets);
}

void run_training(TrainOptions o, const fs::path& out) {
  resolve(o);
  const std::vector<RewardTask> tasks = make_tasks(o);
  validate(o.run, tasks);
  check_pictures(o.pictures, o.guidance);
  tell_what_is_used(o.base, o.parts);
  const auto make_model = [&] {
    auto model = open_model(o.base, o.parts, o.device, o.dtype, o.text, o.pictures);
    model->transformer().checkpoint_blocks = o.checkpoint_blocks;
    return model;
  };
  // A bad base is refused before anything is written.
  o.run.grpo.rollout.guidance = o.run.eval.guidance = classifier_free(*make_model(), o.guidance);
  make_folders(out / "samples");
  const FolderLock mine(out);
  if (!fs::exists(out / "config.toml")) write_file(out / "config.toml", o.config_text);

  RunLog log(out, o.method);
  std::mutex mutex;
  int64_t total = 0, done = log.earlier_steps();
  for (const RewardTask& t : tasks) total += t.steps;
  Progress progress("step", total, done, stdout);
  RunObserver observer;
  observer.on_step = [&](const StepEvent& e) {
    const std::lock_guard lock(mutex);
    log.step(e);
    progress.update(++done, describe(e));
  };
  observer.on_eval = [&](const EvalEvent& e) {
    const std::lock_guard lock(mutex);
    log.evaluation(e);
    progress.note(describe(e));
  };
  observer.on_merge = [&](const MergeEvent& e) {
    const std::lock_guard lock(mutex);
    log.merge(e);
    progress.note(describe(e));
  };
  MapReduce job(make_model, tasks, o.run, out, observer);
  const RunResult result = job.run();
  progress.finish();

  const auto model = make_model();
  write_samples(out, "base", *model, tasks, o.run.eval);
  if (o.run.method != Method::single && fs::exists(out / "adapters" / "merged")) {
    LoraAdapter::load(model->linears(), out / "adapters" / "merged").enable(model->linears());
    write_samples(out, "merged", *model, tasks, o.run.eval);
  }
  write_summary(out, {o.command, o.method, o.run.seed, o.run.iterations, o.device, log.elapsed()},
                result);
  try {
    write_report(out);
  } catch (const Error& error) {  // the run itself is complete; parlo report can try again
    std::fprintf(stderr, "parlo: no report: %s\n", error.what());
  }
  std::printf("done   %s in %.0f s, peak memory %.0f MB\n", out.c_str(), log.elapsed(),
              static_cast<double>(process_peak_bytes()) * 1e-6);
}

// Lists that are empty are left out: CLI11 could not read them back.
std::string run_settings_text(const CLI::App& app) {
  std::istringstream in(app.config_to_str(true, false));
  std::string out;
  for (std::string line; std::getline(in, line);) {
    const bool empty =
        line.ends_with("=\"\"") || line.ends_with("=[]") || line.ends_with("=\"[]\"");
    if (!empty) out += line + "\n";
  }
  return out;
}

// The settings that were given on the command line, as they could be given again.
std::vector<std::string> given_flags(const CLI::App& app) {
  std::vector<std::string> args;
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() == 0 || !option->get_configurable()) continue;
    if (option->get_expected_max() == 0) {
      args.push_back(option->get_name() + "=" + option->results().front());
      continue;
    }
    args.push_back(option->get_name());
    for (const std::string& value : option->results()) args.push_back(value);
  }
  return args;
}

namespace {

struct Places {
  std::string out, resume, preset, config;
};

}  // namespace

TrainSettings read_settings(const std::string& preset, const fs::path& config,
                            const CLI::App* app) {
  TrainSettings s;
  if (!preset.empty()) s.options = train_preset(preset);
  CLI::App reader;
  std::vector<std::string> args;
  if (!config.empty()) {
    if (!fs::exists(config)) throw UsageError(config.string() + ": no such settings file");
    reader.set_config("--config", "")->configurable(false);
    args = {"--config", config.string()};
  }
  add_train_flags(reader, s.options);
  if (app != nullptr) {
    for (const std::string& word : given_flags(*app)) args.push_back(word);
  }
  std::reverse(args.begin(), args.end());  // as CLI11 takes them
  try {
    reader.parse(args);
  } catch (const CLI::ParseError& e) {
    const std::string from = config.empty() ? "--preset " + preset : config.string();
    throw UsageError(from + ": " + e.what());
  }
  s.text = run_settings_text(reader);
  return s;
}

void check_same_config(const fs::path& folder, const std::string& text) {
  if (read_file(folder / "config.toml") == text) return;
  throw UsageError(folder.string() +
                   ": holds an unfinished run with other settings; give another "
                   "--out, or continue it with parlo train --resume " +
                   folder.string());
}

namespace {

void start_run(CLI::App& app, const TrainOptions& given, const Places& at) {
  const std::string& out = at.out;
  if (out.empty()) throw UsageError("train: needs --out DIR (or --resume DIR)");
  if (fs::exists(fs::path(out) / "config.toml")) {
    throw UsageError(out + ": already holds a run; use --resume " + out +
                     " to continue it, or another folder");
  }
  TrainSettings s{given, run_settings_text(app)};
  if (!at.preset.empty() || !at.config.empty()) s = read_settings(at.preset, at.config, &app);
  s.options.config_text = s.text;
  s.options.command = "parlo train --out " + out;
  if (!at.preset.empty()) s.options.command += " --preset " + at.preset;
  if (!at.config.empty()) s.options.command += " --config " + at.config;
  for (const std::string& word : given_flags(app)) s.options.command += " " + word;
  s.options.device = apply(s.options.common);
  run_training(s.options, out);
}

// A resumed run takes everything from its own config.toml, so the flags of the first call must not
// come again with other values: only what cannot change results may be given.
void resume_run(CLI::App& app, const TrainOptions& given, const std::string& folder) {
  const fs::path config = fs::path(folder) / "config.toml";
  if (!fs::exists(config)) throw UsageError(folder + ": no run to resume (config.toml is missing)");
  const std::set<std::string> allowed{"--resume",     "--threads",   "--device",
                                      "--sync-debug", "--no-graphs", "--help"};
  for (const CLI::Option* option : app.get_options()) {
    if (option->count() > 0 && allowed.count(option->get_name()) == 0) {
      throw UsageError(concat("train --resume: ", option->get_name(),
                              " was given, but a resumed run keeps the settings of ",
                              config.string(), "; drop the flag or start a new run"));
    }
  }
  TrainSettings s = read_settings("", config, nullptr);
  s.options.common.threads = given.common.threads;
  s.options.common.device = given.common.device;
  s.options.command = concat("parlo train --resume ", folder);
  s.options.device = apply(s.options.common);
  run_training(s.options, folder);
}

}  // namespace

void add_train(CLI::App& parent) {
  auto o = std::make_shared<TrainOptions>();
  auto at = std::make_shared<Places>();
  CLI::App* app = parent.add_subcommand(
      "train", "Train experts by GRPO, merge, fold, iterate (MapReduce LoRA and its baselines)");
  app->add_option("--out", at->out, "Run folder, new or empty")->configurable(false);
  app->add_option("--resume", at->resume, "Continue the run in this folder, its own settings")
      ->configurable(false);
  app->add_option("--preset", at->preset,
                  "Published settings by name (listed below); --config and flags override them")
      ->configurable(false);
  app->add_option("--config", at->config, "Settings from a TOML file; flags override it")
      ->configurable(false);
  app->footer(train_presets_help());
  add_train_flags(*app, *o);
  app->callback([=] {
    if (at->resume.empty()) {
      start_run(*app, *o, *at);
    } else {
      resume_run(*app, *o, at->resume);
    }
  });
}

}  // namespace parlo
