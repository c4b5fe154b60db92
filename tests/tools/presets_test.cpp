// Presets of `parlo train`: the published numbers, and runs of every one on a tiny model folder.
#include <map>
#include <set>

#include "rl/rewards/prompt.h"
#include "tests/tools/process.h"
#include "tools/train_presets.h"

using namespace parlo;
using namespace parlo::test;
namespace fs = std::filesystem;

namespace {

// As published: Flow-GRPO's config/grpo.py, and MapReduce LoRA's for the rows that are its own.
struct Row {
  const char *name, *reward;
  int64_t steps, eval_steps;
  double guidance;
  int64_t batch, group, groups;
  const char* noise;
  double level, clip, kl;
  int64_t window, high;
  bool global_std, same_noise;
  int64_t eval_every;
};

const std::vector<Row> kRows{
    // SD3.5-Medium
    {"sd35m_geneval", "geneval", 10, 40, 4.5, 9, 24, 48, "sde", .7, 1e-4, .04, 0, 5, true, false,
     60},
    {"sd35m_ocr", "ocr", 10, 40, 4.5, 9, 24, 48, "sde", .7, 1e-4, .04, 0, 5, true, false, 60},
    {"sd35m_pickscore", "pickscore", 10, 40, 4.5, 9, 24, 48, "sde", .7, 1e-4, .01, 0, 5, true,
     false, 60},
    {"sd35m_clipscore", "clipscore", 10, 40, 4.5, 9, 24, 48, "sde", .7, 1e-4, .02, 0, 5, true, true,
     60},
    {"sd35m_ocr_4gpu", "ocr", 10, 40, 4.5, 8, 16, 16, "sde", .7, 1e-4, .04, 0, 5, true, false, 60},
    {"sd35m_pickscore_4gpu", "pickscore", 10, 40, 4.5, 8, 16, 16, "sde", .7, 1e-4, .01, 0, 5, true,
     false, 60},
    {"sd35m_geneval_1gpu", "geneval", 10, 40, 4.5, 8, 8, 8, "sde", .7, 1e-4, .04, 0, 5, true, false,
     60},
    {"sd35m_ocr_1gpu", "ocr", 10, 40, 4.5, 8, 8, 8, "sde", .7, 1e-4, .04, 0, 5, true, false, 60},
    {"sd35m_pickscore_1gpu", "pickscore", 10, 40, 4.5, 8, 8, 8, "sde", .7, 1e-4, .01, 0, 5, true,
     false, 60},
    {"sd35m_pickscore_fast", "pickscore", 10, 40, 4.5, 9, 24, 48, "sde", .8, 1e-5, 0, 2, 7, true,
     true, 60},
    {"sd35m_geneval_fast_nocfg", "geneval", 10, 40, 1, 9, 24, 48, "cps", .8, 1e-5, 0, 3, 5, true,
     false, 60},
    {"sd35m_ocr_fast_nocfg", "ocr", 10, 40, 1, 9, 24, 48, "cps", .8, 1e-5, 0, 3, 5, true, false,
     60},
    {"sd35m_pickscore_fast_nocfg", "pickscore", 10, 40, 1, 9, 18, 64, "cps", .8, 1e-5, 0, 3, 5,
     true, false, 60},
    {"sd35m_mapreduce", "geneval", 10, 40, 4.5, 6, 24, 48, "sde", .7, 1e-4, .04, 0, 5, true, false,
     50},
    {"sd35m_mapreduce", "ocr", 10, 40, 4.5, 6, 24, 48, "sde", .7, 1e-4, .04, 0, 5, true, false, 50},
    {"sd35m_mapreduce", "pickscore", 10, 40, 4.5, 6, 24, 48, "sde", .7, 1e-4, .01, 0, 5, true,
     false, 50},
    // FLUX.1-dev
    {"flux_geneval", "geneval", 6, 28, 3.5, 3, 24, 48, "sde", .9, 1e-4, .04, 0, 5, true, false, 30},
    {"flux_ocr", "ocr", 6, 28, 3.5, 3, 24, 48, "sde", .9, 1e-4, .04, 0, 5, true, false, 30},
    {"flux_pickscore", "pickscore", 6, 28, 3.5, 3, 24, 48, "sde", .9, 1e-4, 0, 0, 5, true, false,
     30},
    {"flux_geneval_1gpu", "geneval", 6, 28, 3.5, 3, 4, 36, "sde", .9, 1e-4, .04, 0, 5, true, false,
     30},
    {"flux_pickscore_1gpu", "pickscore", 6, 28, 3.5, 3, 4, 48, "sde", .9, 1e-4, 0, 0, 5, true,
     false, 30},
    {"flux_geneval_fast", "geneval", 6, 28, 3.5, 3, 24, 48, "cps", .8, 1e-5, 0, 3, 3, true, false,
     30},
    {"flux_ocr_fast", "ocr", 6, 28, 3.5, 3, 24, 48, "cps", .8, 1e-5, 0, 3, 3, true, false, 30},
    {"flux_pickscore_fast", "pickscore", 6, 28, 3.5, 3, 24, 48, "cps", .8, 1e-5, 0, 3, 3, false,
     false, 30},
    {"flux_mapreduce", "geneval", 6, 28, 3.5, 3, 24, 48, "sde", .9, 1e-4, .04, 0, 5, true, false,
     25},
    {"flux_mapreduce", "ocr", 6, 28, 3.5, 3, 24, 48, "sde", .9, 1e-4, .04, 0, 5, true, false, 25},
    {"flux_mapreduce", "pickscore", 6, 28, 3.5, 3, 24, 48, "sde", .9, 1e-4, 0, 0, 5, true, false,
     25},
};

// The entry of the reward, or the bare one.
double of_reward(const std::vector<std::string>& entries, const std::string& reward) {
  double out = -1;
  for (const std::string& e : entries) {
    if (e.starts_with(reward + "=")) return std::stod(e.substr(reward.size() + 1));
    if (e.find('=') == std::string::npos) out = std::stod(e);
  }
  return out;
}

const char* const kRewards =
    PARLO_HAVE_TURBOJPEG ? "colorfulness,jpeg_compressibility" : "colorfulness";
const std::string kPrompts = "{\"prompt\": \"a red circle\"}\n{\"prompt\": \"a blue square\"}\n";

std::map<std::string, std::string> adapters_of(const std::string& run) {
  std::map<std::string, std::string> out;
  for (const auto& e : fs::recursive_directory_iterator(run + "/adapters")) {
    if (e.path().extension() == ".safetensors")
      out[e.path().string().substr(run.size())] = read_file(e.path());
  }
  return out;
}

}  // namespace

TEST_CASE("presets hold the published numbers") {
  std::set<std::string> seen;
  for (const Row& row : kRows) {
    CAPTURE(row.name);
    CAPTURE(row.reward);
    seen.insert(row.name);
    const TrainOptions o = train_preset(row.name);
    const GrpoConfig& g = o.run.grpo;
    const RolloutConfig& r = g.rollout;
    CHECK(std::count(o.rewards.begin(), o.rewards.end(), std::string(row.reward)) == 1);
    CHECK(r.steps == row.steps);
    CHECK(o.run.eval.steps == row.eval_steps);
    CHECK(o.guidance.guidance == row.guidance);
    CHECK(o.guidance.true_cfg == 1);
    CHECK(r.micro_batch == row.batch);
    CHECK(g.group_size == row.group);
    CHECK(g.prompts_per_step == row.groups);
    CHECK(g.updates_per_rollout == 2);
    CHECK(o.noise == row.noise);
    CHECK(r.noise_level == row.level);
    CHECK(g.loss.clip_low == row.clip);
    CHECK(g.loss.clip_high == row.clip);
    CHECK(of_reward(o.kl, row.reward) == row.kl);
    CHECK(r.window == row.window);
    if (row.window > 0) CHECK(r.window_high == row.high);
    if (row.window > 0) CHECK(r.window_low == 0);
    if (row.window == 0) CHECK(trained_steps(r) == row.steps - 1);
    CHECK(g.advantage.global_std == row.global_std);
    CHECK(g.advantage.clip == 5);
    CHECK(g.same_noise == row.same_noise);
    CHECK(o.run.eval_every == row.eval_every);
    CHECK(!r.detach_uncond);
    // AdamW, EMA, LoRA, text, size.
    const bool flux = std::string(row.name).starts_with("flux");
    CHECK(of_reward(o.lr, row.reward) == 3e-4);
    CHECK(g.adam.beta1 == 0.9);
    CHECK(g.adam.beta2 == 0.999);
    CHECK(g.adam.eps == 1e-8);
    CHECK(g.adam.weight_decay == 1e-4);
    CHECK(g.max_grad_norm == 1.0);
    CHECK(g.ema_decay == 0.9);
    CHECK(g.ema_every == 8);
    CHECK(o.run.lora.r == (flux ? 64 : 32));
    CHECK(o.run.lora.lora_alpha == (flux ? 128 : 64));
    CHECK(o.targets == (flux ? "attention+mlp" : "attention"));
    CHECK(o.text.t5_tokens == 128);
    CHECK(o.pictures.height == 512);
    CHECK(o.pictures.width == 512);
    CHECK(o.common.seed == 42);
  }
  for (const TrainPreset& p : train_presets()) CHECK(seen.count(p.name) == 1);
  CHECK(seen.size() == train_presets().size());
  for (const char* name : {"sd35m_mapreduce", "flux_mapreduce"}) {
    const TrainOptions o = train_preset(name);
    CHECK(o.method == "mapreduce");
    CHECK(o.run.iterations == 80);
    CHECK(o.steps == 80 * 50);  // rollouts of two optimiser steps
    CHECK(o.run.factor_mean);
    CHECK(o.run.anchor_base);
    CHECK(o.optimizer == "reset");
    CHECK(o.rewards.size() == 3);
    CHECK(o.run.weights.empty());  // uniform
  }
}

// Presets that between them change every setting.
const std::set<std::string> kRepeated{"sd35m_mapreduce",      "sd35m_clipscore",
                                      "sd35m_pickscore_fast", "sd35m_geneval_fast_nocfg",
                                      "flux_mapreduce",       "flux_pickscore_fast"};

TEST_CASE("every preset runs on a tiny folder, and config.toml is all that a run needs") {
  const TemporaryFolder folder;
  write_file(folder / "prompts.jsonl", kPrompts);
  const std::string prompts = folder / "prompts.jsonl";
  for (const TrainPreset& p : train_presets()) {
    CAPTURE(p.name);
    const bool flux = p.name.starts_with("flux"), many = p.name.ends_with("mapreduce");
    const std::string run = folder / p.name, again = run + "_again";
    std::vector<std::string> args{"train",
                                  "--preset",
                                  p.name,
                                  "--out",
                                  run,
                                  "--base",
                                  golden(flux ? "pipe_flux" : "pipe_sd3"),
                                  "--threads",
                                  "1"};
    for (const char* word :
         {"--rewards",     kRewards, "--height",           "32", "--width",      "48",
          "--text-tokens", "8",      "--prompts-per-step", "2",  "--group-size", "2",
          "--steps",       "2",      "--eval-steps",       "1",  "--rank",       "2",
          "--iterations",  "2",      "--eval-count",       "2"}) {
      args.push_back(word);
    }
    for (const char* flag : {"--train-prompts", "--eval-prompts"}) {
      args.push_back(flag);
      args.push_back(prompts);
    }
    const Outcome r = run_parlo(args);
    INFO(r.output);
    REQUIRE(r.code == 0);
    const auto adapters = adapters_of(run);
    CHECK(adapters.size() >= (many ? 3 : 1));
    const std::string config = read_file(run + "/config.toml");
    CHECK(contains(config, "lr=\"[0.0003]\""));
    CHECK(contains(config, concat("noise=\"", p.options.noise, "\"")));
    CHECK(contains(config, "\nheight=32\n"));
    CHECK(contains(config, "\nguidance="));
    if (kRepeated.count(p.name) == 0) continue;
    make_folders(again);
    write_file(again + "/config.toml", config);
    const Outcome resumed = run_parlo({"train", "--resume", again, "--threads", "1"});
    INFO(resumed.output);
    REQUIRE(resumed.code == 0);
    CHECK((adapters_of(again) == adapters));
  }
}

TEST_CASE("a preset goes before a file, a file before flags") {
  const TemporaryFolder folder;
  write_file(folder / "prompts.jsonl", kPrompts);
  write_file(folder / "my.toml", "rank=3\nalpha=5\nheight=32\nwidth=32\ntext-tokens=8\n");
  const std::string prompts = folder / "prompts.jsonl", run = folder / "run";
  const Outcome r = run_parlo({"train",
                               "--preset",
                               "sd35m_ocr_1gpu",
                               "--config",
                               folder / "my.toml",
                               "--alpha",
                               "7",
                               "--out",
                               run,
                               "--base",
                               golden("pipe_sd3"),
                               "--rewards",
                               "colorfulness",
                               "--train-prompts",
                               prompts,
                               "--eval-prompts",
                               prompts,
                               "--steps",
                               "1",
                               "--prompts-per-step",
                               "1",
                               "--group-size",
                               "2",
                               "--eval-steps",
                               "1",
                               "--threads",
                               "1"});
  INFO(r.output);
  REQUIRE(r.code == 0);
  const std::string config = read_file(run + "/config.toml");
  for (const char* line :
       {"rank=3\n", "alpha=7\n", "\nnoise=\"sde\"\n", "ema-every=8\n", "seed=42\n"}) {
    CAPTURE(line);
    CHECK(contains(config, line));
  }
}

TEST_CASE("a preset that does not exist is refused with the list; help has it") {
  const TemporaryFolder folder;
  check_refused({"train", "--preset", "sd35m", "--out", folder / "x"}, 2,
                {"--preset sd35m", "sd35m_geneval", "flux_mapreduce"});
  make_folders(folder / "y");
  write_file(folder / "y/config.toml", "");
  check_refused({"train", "--preset", "flux_ocr", "--resume", folder / "y"}, 2, {"--preset"});
  CHECK(!fs::exists(folder / "x"));
  const std::string help = run_parlo({"train", "--help"}).output;
  for (const TrainPreset& p : train_presets()) CHECK(contains(help, p.name));
}
