// parlo plan: the peak memory of a training run before it starts, and what to change when it does
// not fit. Takes the flags of parlo train.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "rl/memory_plan.h"
#include "tensor/device_memory.h"
#include "tools/assets.h"
#include "tools/commands.h"
#include "tools/model_preset.h"
#include "tools/paths.h"
#include "tools/progress.h"
#include "tools/scratch_folder.h"
#include "tools/train.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;
using json = nlohmann::ordered_json;

struct PlanOptions {
  TrainOptions train;
  std::string model, preset, config, memory = "auto";
  bool json = false;
};

// Other settings, with the peak that they lead to.
struct Advice {
  std::string flags, what;
  int64_t peak = 0;
};

struct Outcome {
  std::string model, device;
  MemoryPlan plan;
  int64_t memory = 0;  // 0: unknown
  std::vector<Advice> advice;

  bool fits() const { return memory == 0 || plan.peak() <= memory; }
};

// The device that the run will be on, which this machine need not have.
Device planned_device(const std::string& name) {
  if (name == "cpu") return {};
  if (name == "auto") return gpu_count() > 0 ? Device{Device::Kind::cuda, 0} : Device{};
  if (name == "cuda" || name.starts_with("cuda:")) return {Device::Kind::cuda, 0};
  throw UsageError("--device " + name + ": expected auto, cpu, cuda or cuda:N");
}

// What a new process may take of the host's memory: MemAvailable of /proc/meminfo; 0: unknown.
int64_t available_memory() {
  std::ifstream in("/proc/meminfo");
  for (std::string field; in >> field;) {
    int64_t kib = 0;
    if (field == "MemAvailable:" && in >> kib) return kib * 1024;
  }
  return 0;
}

// "80GiB", "24GB" or a number of bytes; 0 for anything else.
int64_t bytes_of(std::string text) {
  try {
    if (!CLI::AsSizeValue(true)(text).empty()) return 0;
    return std::stoll(text);
  } catch (const std::exception&) {
    return 0;
  }
}

int64_t memory_of(const PlanOptions& o, Device device) {
  if (o.memory == "auto") return device.is_cpu() ? available_memory() : 0;
  const int64_t bytes = bytes_of(o.memory);
  if (bytes <= 0) {
    throw UsageError("--memory " + o.memory + ": expected auto or a size, e.g. 80GiB");
  }
  return bytes;
}

int64_t different(const std::vector<Prompt>& prompts) {
  std::set<std::string> texts;
  for (const Prompt& p : prompts) texts.insert(p.text);
  return static_cast<int64_t>(texts.size());
}

PlannedRun run_of(const TrainOptions& o, const std::vector<RewardTask>& tasks) {
  PlannedRun run;
  run.lora = o.run.lora;
  run.grpo = o.run.grpo;
  run.eval = o.run.eval;
  double& kl = run.grpo.loss.kl_beta;
  for (const RewardTask& t : tasks) kl = std::max(kl, t.kl_beta.value_or(kl));
  // A trainer prepares its prompts for 64 steps.
  const int64_t ahead = 64 * o.run.grpo.prompts_per_step;
  for (const RewardTask& t : tasks) {
    run.train_prompts = std::max(run.train_prompts, std::min(different(t.train), ahead));
    run.held_out_prompts = std::max(run.held_out_prompts, static_cast<int64_t>(t.held_out.size()));
  }
  if (o.run.parallel && o.run.method != Method::morl) {
    run.side_by_side = static_cast<int64_t>(tasks.size());
  }
  run.second_model = o.run.anchor_base && kl > 0 && o.run.iterations > 1;
  run.conditions_on_disk = !o.text.cache.empty();
  return run;
}

MemoryPlan plan_of(const fs::path& base, const TrainOptions& o, Device device) {
  TrainOptions run = o;
  const std::vector<RewardTask> tasks = make_tasks(o);
  validate(o.run, tasks);
  check_pictures(run.pictures, o.guidance);
  MetaModel model = make_meta_model(base, device, o.dtype == "bf16" ? DType::bf16 : DType::f32,
                                    o.text, run.pictures);
  run.run.grpo.rollout.guidance = run.run.eval.guidance =
      classifier_free(*model.pipeline, o.guidance);
  model.pipeline->transformer().checkpoint_blocks = o.checkpoint_blocks;
  return plan_memory(model, run_of(run, tasks), device);
}

struct Change {
  std::string flags, what;
  std::function<void(TrainOptions&)> make;
};

// Settings that may take less memory, the cheapest in time and results first.
std::vector<Change> changes(const TrainOptions& o) {
  std::vector<Change> out;
  const auto add = [&](bool possible, const std::string& flags, const std::string& what,
                       std::function<void(TrainOptions&)> make) {
    if (possible) out.push_back({flags, what, std::move(make)});
  };
  const int64_t batch = o.run.grpo.rollout.micro_batch;
  const auto smaller = [](int64_t n) {
    return [n](TrainOptions& c) { c.run.grpo.rollout.micro_batch = n; };
  };
  add(o.text.cache.empty(), "--text-cache DIR", "encoded prompts on disk",
      [](TrainOptions& c) { c.text.cache = "cache"; });
  add(batch > 3, concat("--micro-batch ", batch / 2), "fewer samples a pass", smaller(batch / 2));
  add(batch > 1, "--micro-batch 1", "one sample a pass", smaller(1));
  add(!o.checkpoint_blocks, "--checkpoint-blocks", "same results, a forward more",
      [](TrainOptions& c) { c.checkpoint_blocks = true; });
  add(!o.pictures.vae_tiling, "--vae-tiling", "large pictures decoded in tiles",
      [](TrainOptions& c) { c.pictures.vae_tiling = true; });
  add(o.dtype != "bf16", "--dtype bf16", "weights, and on a GPU activations, in half the bytes",
      [](TrainOptions& c) { c.dtype = "bf16"; });
  add(o.run.grpo.rollout.window > 1, "--window 1", "fewer trained steps",
      [](TrainOptions& c) { c.run.grpo.rollout.window = 1; });
  return out;
}

// What every change would do alone, and then as many together as it takes.
std::vector<Advice> advise(const fs::path& base, const TrainOptions& given, Device device,
                           int64_t peak, int64_t memory) {
  std::vector<Advice> out;
  Advice together{"", "together", peak};
  TrainOptions all = given;
  std::map<std::string, std::string> flags;  // by the first word: a later value replaces one
  for (const Change& c : changes(given)) {
    TrainOptions one = given;
    c.make(one);
    const int64_t alone = plan_of(base, one, device).peak();
    if (alone < peak) out.push_back({c.flags, c.what, alone});
    if (together.peak <= memory) continue;
    TrainOptions more = all;
    c.make(more);
    const int64_t with = plan_of(base, more, device).peak();
    if (with >= together.peak) continue;
    all = more;
    together.peak = with;
    flags[c.flags.substr(0, c.flags.find(' '))] = c.flags;
  }
  for (const auto& [name, words] : flags) {
    together.flags += (together.flags.empty() ? "" : " ") + words;
  }
  const bool is_new = std::none_of(out.begin(), out.end(),
                                   [&](const Advice& a) { return a.flags == together.flags; });
  if (!together.flags.empty() && is_new) out.push_back(together);
  return out;
}

json to_json(const Outcome& o) {
  const MemoryPlan& p = o.plan;
  json j{{"model", o.model}, {"device", o.device}, {"peak_bytes", p.peak()}};
  j["memory_bytes"] = o.memory > 0 ? json(o.memory) : json();
  j["fits"] = o.memory > 0 ? json(o.fits()) : json();
  j["weights"] = {{"transformer", p.transformer}, {"autoencoder", p.autoencoder}, {"text", p.text}};
  j["adapter"] = p.adapter;
  j["optimizer"] = p.optimizer;
  j["conditions"] = p.conditions;
  j["peaks"] = {{"encoding", p.encoding},
                {"evaluation", p.evaluation},
                {"rollout", p.rollout},
                {"decoding", p.decoding},
                {"update", p.update}};
  j["advice"] = json::array();
  for (const Advice& a : o.advice)
    j["advice"].push_back({{"flags", a.flags}, {"peak_bytes", a.peak}});
  j["seconds"] = nullptr;  // not predicted
  return j;
}

void print_line(const char* what, int64_t bytes, const std::string& note = "") {
  if (bytes == 0) return;
  std::printf("  %-26s %10s%s%s\n", what, format_bytes(static_cast<double>(bytes)).c_str(),
              note.empty() ? "" : "  ", note.c_str());
}

void print(const Outcome& o) {
  const MemoryPlan& p = o.plan;
  std::printf("%s on %s\n\nwhat stays\n", o.model.c_str(), o.device.c_str());
  print_line("transformer", p.transformer);
  print_line("autoencoder", p.autoencoder);
  print_line("text encoder", p.text);
  print_line("adapter", p.adapter);
  print_line("optimiser", p.optimizer);
  const bool host = o.device != "cpu" && p.text == 0;
  print_line("encoded prompts", p.conditions, host ? "(in the host's memory)" : "");
  std::printf("\npeaks of all together\n");
  print_line("text encoders", p.encoding, "one after another, each for a while");
  print_line("evaluation", p.evaluation);
  print_line("rollout", p.rollout);
  print_line("decoding a rollout", p.decoding);
  print_line("update", p.update, "forward and backward");
  std::printf("\npeak  %s", format_bytes(static_cast<double>(p.peak())).c_str());
  if (o.memory > 0) {
    std::printf(", memory %s: %s", format_bytes(static_cast<double>(o.memory)).c_str(),
                o.fits() ? "it fits" : "it does NOT fit");
  } else {
    std::printf("; --memory BYTES says whether it fits");
  }
  std::printf("\n");
  if (!o.advice.empty()) std::printf("\nthe peak with other flags\n");
  for (const Advice& a : o.advice) {
    std::printf("  %10s  %s  (%s)\n", format_bytes(static_cast<double>(a.peak)).c_str(),
                a.flags.c_str(), a.what.c_str());
  }
  const auto enough = [&](const Advice& a) { return a.peak <= o.memory; };
  if (!o.fits() && std::none_of(o.advice.begin(), o.advice.end(), enough)) {
    std::printf("\nnone of these is enough: a smaller model or picture, or a larger machine\n");
  }
  if (o.device != "cpu") {
    std::printf("\nwith --no-graphs; recorded passes keep more, which is not predicted\n");
  }
  std::printf("\ntime is not predicted: measure a step\n");
}

void run(const PlanOptions& given, const CLI::App& app) {
  PlanOptions o = given;
  if (!o.preset.empty() || !o.config.empty()) {
    o.train = read_settings(o.preset, o.config, &app).options;
  }
  if (!o.model.empty() && !o.train.base.empty()) {
    throw UsageError("plan: --model and --base name two models; give one");
  }
  if (!o.train.parts.empty()) {
    throw UsageError("plan: --components was given, but plans are made of model folders alone");
  }
  const Device device = planned_device(o.train.common.device);
  Outcome out;
  out.memory = memory_of(o, device);
  out.device = device.is_cpu() ? "cpu" : "cuda";
  resolve(o.train);
  fs::path base = o.train.base.empty() ? signs_base() : fs::path(o.train.base);
  std::optional<ScratchFolder> scratch;
  if (!o.model.empty()) {
    const ModelPreset preset = model_preset(o.model, "--model");
    scratch.emplace(fs::temp_directory_path() / "parlo-plan");
    write_configuration(preset, scratch->place());
    base = scratch->place();
  }
  require_folder(base, "--base", "a model folder with transformer/, text_encoder/, tokenizer/");
  out.model = o.model.empty() ? base.string() : o.model;
  out.plan = plan_of(base, o.train, device);
  if (!out.fits()) out.advice = advise(base, o.train, device, out.plan.peak(), out.memory);
  if (o.json) {
    std::printf("%s\n", to_json(out).dump(2).c_str());
  } else {
    print(out);
  }
}

}  // namespace

void add_plan(CLI::App& parent) {
  auto o = std::make_shared<PlanOptions>();
  CLI::App* app = parent.add_subcommand(
      "plan",
      "Predict the peak memory of a training run (the flags of parlo train) from config.json");
  std::string names;
  for (const std::string& n : model_preset_names()) names += (names.empty() ? "" : ", ") + n;
  app->add_option("--model", o->model, "In place of --base: " + names)->configurable(false);
  app->add_option("--preset", o->preset, "Published settings, as of parlo train")
      ->configurable(false);
  app->add_option("--config", o->config, "Settings from a TOML file; flags override it")
      ->configurable(false);
  app->add_option("--memory", o->memory,
                  "Bytes there are, e.g. 80GiB; auto: what the host has free, on a GPU unknown")
      ->capture_default_str()
      ->configurable(false);
  app->add_flag("--json", o->json, "Print the plan as JSON")->configurable(false);
  add_train_flags(*app, o->train);
  app->callback([o, app] { run(*o, *app); });
}

}  // namespace parlo
