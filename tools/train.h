// The settings of a training run and the job itself, shared by `parlo train` and `parlo demo`.
#pragma once

#include <CLI/CLI.hpp>
#include <filesystem>
#include <string>
#include <vector>

#include "models/text_conditioning.h"
#include "rl/mapreduce.h"
#include "tools/model_options.h"
#include "tools/options.h"

namespace parlo {

struct TrainOptions {
  TrainOptions() { run.lora.lora_alpha = 16; }

  CommonOptions common;
  Device device;  // what apply(common) gave
  MapReduceConfig run;
  std::string base, parts, clip;
  std::string dtype = "f32";
  bool checkpoint_blocks = false;
  TextSettings text;
  PipelineSettings pictures;
  GuidanceFlags guidance;
  std::vector<std::string> rewards{"ocr", "geneval", "pickscore"};
  std::vector<std::string> kl{"0"};
  std::vector<std::string> lr, morl_weights, train_prompts, eval_prompts;
  std::string targets = "attention+mlp";
  std::string eval_split = "held-out";
  std::string method = "mapreduce", noise = "cps", optimizer = "reset";
  int64_t steps = 64;
  int64_t eval_count = 400;
  bool no_score_experts = false;
  std::string config_text;  // what config.toml will hold
  std::string command;
};

void add_train_flags(CLI::App& app, TrainOptions& options);
// A preset's settings (empty: the defaults), overridden by those of a file (empty: none), and these
// by the flags that were given to `app` (null: none).
struct TrainSettings {
  TrainOptions options;
  std::string text;  // what config.toml holds
};
TrainSettings read_settings(const std::string& preset, const std::filesystem::path& config,
                            const CLI::App* app);
// What the flags mean for the run's configuration.
void resolve(TrainOptions& options);
std::vector<RewardTask> make_tasks(const TrainOptions& options);
// Starts or continues the run in `out`, prints progress, writes summary and report.
void run_training(TrainOptions options, const std::filesystem::path& out);
// UsageError unless the run in the folder was started with these settings.
void check_same_config(const std::filesystem::path& folder, const std::string& config_text);
// The settings given on the command line, word by word, as they could be given again.
std::vector<std::string> given_flags(const CLI::App& app);
// What config.toml holds for the flags of an app: every setting.
std::string run_settings_text(const CLI::App& app);

}  // namespace parlo
