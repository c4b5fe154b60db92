// parlo demo: the whole main job on the built-in world, from the shipped base to the report.
#include <cstdio>

#include "tools/assets.h"
#include "tools/commands.h"
#include "tools/train.h"
#include "tools/world/judge.h"

namespace parlo {

namespace fs = std::filesystem;

namespace {

// The first free folder of runs/demo, runs/demo-2, ...; an unfinished one is continued.
fs::path choose_folder(const std::string& wish) {
  const std::string base = wish.empty() ? "runs/demo" : wish;
  for (int i = 1;; ++i) {
    const fs::path folder = i == 1 ? base : base + "-" + std::to_string(i);
    if (!fs::exists(folder / "summary.json")) return folder;
  }
}

void print_judges(const std::vector<std::string>& rewards, int64_t count) {
  std::printf("The judges on %lld true held-out pictures each:\n", static_cast<long long>(count));
  for (const std::string& name : rewards) {
    std::printf("  %s\n", describe(judge_accuracy(named_reward(name), count)).c_str());
  }
  std::fflush(stdout);
}

}  // namespace

void add_demo(CLI::App& parent) {
  auto o = std::make_shared<TrainOptions>();
  auto out = std::make_shared<std::string>();
  auto judged = std::make_shared<int64_t>(120);
  o->steps = 48, o->eval_count = 200;  // ten minutes on two cores
  CLI::App* app = parent.add_subcommand(
      "demo", "The whole main job on the built-in world: experts, merges, iterations, report");
  app->add_option("--out", *out, "Run folder; default runs/demo, then runs/demo-2 ...")
      ->configurable(false);
  app->add_option("--judge-count", *judged, "Pictures to measure each judge on; 0: none")
      ->capture_default_str()
      ->configurable(false);
  add_train_flags(*app, *o);
  app->callback([=] {
    o->device = apply(o->common);
    const fs::path folder = choose_folder(*out);
    if (*judged > 0) print_judges(o->rewards, *judged);
    o->command = "parlo demo";
    for (const std::string& word : given_flags(*app)) o->command += " " + word;
    o->config_text = run_settings_text(*app);
    if (fs::exists(folder / "config.toml")) {
      std::printf("Continuing the unfinished run in %s\n", folder.c_str());
      check_same_config(folder, o->config_text);
    }
    run_training(*o, folder);
  });
}

}  // namespace parlo
