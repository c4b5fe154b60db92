// parlo sample: pictures of prompts, as PNG files and one contact sheet.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "rl/rewards/png.h"
#include "tensor/file.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/options.h"
#include "tools/paths.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;

struct SampleOptions {
  CommonOptions common;
  ModelOptions model;
  std::vector<std::string> texts;
  std::string prompts, adapter, out;
  int64_t count = 1;
  int64_t columns = 0, scale = 0;
};

constexpr int kSheetWidth = 1024;  // pixels the contact sheet aims at

// Every prompt `count` times, one after another.
std::vector<Prompt> repeat(const std::vector<Prompt>& prompts, int64_t count) {
  std::vector<Prompt> out;
  for (const Prompt& p : prompts) out.insert(out.end(), static_cast<size_t>(count), p);
  return out;
}

int columns_for(const SampleOptions& o, size_t images) {
  if (o.columns > 0) return static_cast<int>(o.columns);
  if (o.count > 1) return static_cast<int>(o.count);
  return static_cast<int>(std::ceil(std::sqrt(static_cast<double>(images))));
}

int scale_for(const SampleOptions& o, const Image& image, int columns) {
  if (o.scale > 0) return static_cast<int>(o.scale);
  return std::clamp(kSheetWidth / (image.width * columns), 1, 4);
}

void write_pictures(const SampleOptions& o, const std::vector<Prompt>& prompts,
                    const std::vector<Image>& images) {
  const fs::path out(o.out);
  make_folders(out);
  for (size_t i = 0; i < images.size(); ++i) {
    char name[32];
    std::snprintf(name, sizeof name, "%05zu.png", i);
    write_png(out / name, images[i]);
  }
  write_prompts(out / "prompts.jsonl", prompts);
  const int columns = columns_for(o, images.size());
  write_png(out / "grid.png", make_grid(images, columns, scale_for(o, images[0], columns)));
}

void run(SampleOptions o, Device device) {
  const std::vector<Prompt> prompts = repeat(gather_prompts(o.texts, o.prompts), o.count);
  require_writable_folder(o.out, "--out");
  if (!o.adapter.empty()) require_place(o.adapter, "--adapter", "an adapter's folder or file");
  const std::unique_ptr<FlowModel> model = load_model(o.model, device);
  if (!o.adapter.empty()) put_on(*model, o.adapter);
  o.model.draw.seed = o.common.seed;
  const std::vector<Image> images = sample_images(*model, prompts, o.model.draw);
  write_pictures(o, prompts, images);
  std::printf("%zu pictures of %dx%d and grid.png in %s\n", images.size(), images[0].width,
              images[0].height, o.out.c_str());
}

}  // namespace

void add_sample(CLI::App& parent) {
  auto o = std::make_shared<SampleOptions>();
  CLI::App* app = parent.add_subcommand("sample", "Draw pictures of prompts");
  add_model_flags(*app, o->model);
  app->add_option("--adapter", o->adapter,
                  "Adapter of any format, folder or file, put on the model");
  app->add_option("--prompt", o->texts, "A prompt; may be given again")->allow_extra_args(false);
  app->add_option("--prompts", o->prompts, "JSONL file of prompts, one {\"prompt\": ...} a line");
  app->add_option("--count", o->count, "Pictures a prompt")
      ->capture_default_str()
      ->check(CLI::Range(1, 100000));
  app->add_option("--columns", o->columns, "Columns of the grid; 0: chosen")
      ->capture_default_str()
      ->check(CLI::Range(0, 1000));
  app->add_option("--scale", o->scale, "Enlargement in the grid; 0: chosen")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  app->add_option("--out", o->out, "Folder for 00000.png ..., grid.png, prompts.jsonl")->required();
  add_common(*app, o->common);
  app->callback([o] { run(*o, apply(o->common)); });
}

}  // namespace parlo
