// parlo sample: pictures of prompts, as PNG files and one contact sheet.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <span>

#include "tensor/file.h"
#include "tools/commands.h"
#include "tools/model_options.h"
#include "tools/options.h"
#include "tools/paths.h"
#include "tools/progress.h"
#include "tools/run_folder.h"
#include "tools/sample_folder.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

struct SampleOptions {
  CommonOptions common;
  ModelOptions model;
  std::vector<std::string> texts;
  std::string prompts, adapter, out;
  int64_t count = 1;
  int64_t columns = 0, scale = 0;
};

// Prompts that are encoded at once: text encoders are loaded once for them, and their states (SD3:
// 5.5 MB each) are what memory holds.
constexpr size_t kPromptsAhead = 256;

// Every prompt `count` times, one after another.
std::vector<Prompt> repeat(const std::vector<Prompt>& prompts, int64_t count) {
  std::vector<Prompt> out;
  for (const Prompt& p : prompts) out.insert(out.end(), static_cast<size_t>(count), p);
  return out;
}

std::string absolute(const std::string& path) {
  return path.empty() ? path : fs::absolute(path).lexically_normal().string();
}

// All that the pictures depend on besides the prompts. The size of a batch is not in it.
ordered_json settings_of(const SampleOptions& o, Device device) {
  const ModelOptions& m = o.model;
  const SkipLayers& skip = m.draw.skip;
  return {{"base", absolute(m.base)},
          {"components", absolute(m.parts)},
          {"adapter", absolute(o.adapter)},
          {"dtype", m.dtype},
          {"device", device.is_cpu() ? "cpu" : "cuda"},
          {"seed", o.common.seed},
          {"steps", m.draw.steps},
          {"guidance", m.guidance.guidance},
          {"true_cfg", m.guidance.true_cfg},
          {"negative_prompt", m.draw.negative},
          {"skip_layers", skip.layers},
          {"skip_scale", skip.scale},
          {"skip_start", skip.start},
          {"skip_stop", skip.stop},
          {"height", m.pictures.height},
          {"width", m.pictures.width},
          {"vae_tiling", m.pictures.vae_tiling},
          {"vae_bf16", m.pictures.vae_bf16},
          {"text_tokens", m.text.t5_tokens}};
}

// What a picture says of itself, besides its prompt and size.
PngTexts texts_of(const SampleOptions& o, const FlowModel& model) {
  const ModelOptions& m = o.model;
  PngTexts texts;
  const auto add = [&](const char* keyword, const auto& value) {
    texts.emplace_back(keyword, concat(value));
  };
  if (!m.draw.negative.empty()) add("negative_prompt", m.draw.negative);
  add("seed", o.common.seed);
  add("steps", m.draw.steps);
  add("guidance", model.embeds_guidance() ? m.pictures.guidance : m.draw.guidance);
  if (model.embeds_guidance()) add("true_cfg", m.draw.guidance);
  if (!m.draw.skip.layers.empty()) {
    const SkipLayers& skip = m.draw.skip;
    std::string layers;
    for (int64_t l : skip.layers) layers += concat(layers.empty() ? "" : ",", l);
    add("skip_layers", layers);
    add("skip_scale", skip.scale);
    add("skip_steps", concat(skip.start, "..", skip.stop));
  }
  add("dtype", m.dtype);
  add("model", m.base.empty() ? "built-in" : m.base);
  if (!m.parts.empty()) add("components", m.parts);
  if (!o.adapter.empty()) add("adapter", o.adapter);
  add("software", concat("parlo ", build_version()));
  return texts;
}

void draw(FlowModel& model, const SampleOptions& o, const std::vector<Prompt>& prompts,
          const SampleFolder& folder, std::span<const size_t> missing) {
  const PngTexts common = texts_of(o, model);
  const auto total = static_cast<int64_t>(prompts.size());
  int64_t drawn = total - static_cast<int64_t>(missing.size());
  Progress progress("picture", total, drawn);
  for (size_t begin = 0; begin < missing.size(); begin += kPromptsAhead) {
    const auto part = missing.subspan(begin, std::min(kPromptsAhead, missing.size() - begin));
    draw_images(model, prompts, part, o.model.draw, [&](size_t place, Image image) {
      PngTexts texts{{"prompt", prompts[place].text}, {"place", concat(place)}};
      texts.insert(texts.end(), common.begin(), common.end());
      texts.emplace_back("size", concat(image.width, "x", image.height));
      folder.add(place, image, texts);
      progress.update(++drawn);
    });
    model.forget();
  }
}

void run(SampleOptions o, Device device) {
  const std::vector<Prompt> prompts = repeat(gather_prompts(o.texts, o.prompts), o.count);
  require_writable_folder(o.out, "--out");
  if (!o.adapter.empty()) require_place(o.adapter, "--adapter", "an adapter's folder or file");
  SampleFolder folder(o.out, settings_of(o, device), prompts);
  const std::unique_ptr<FlowModel> model = load_model(o.model, device);
  validate(o.model.draw.skip, *model, o.model.draw.guidance);
  if (!o.model.draw.negative.empty() && o.model.draw.guidance == 1) {
    throw UsageError(concat("--negative-prompt needs classifier-free guidance, which is off; give ",
                            model->embeds_guidance() ? "--true-cfg" : "--guidance", " above 1"));
  }
  if (!o.adapter.empty()) put_on(*model, o.adapter);
  o.model.draw.seed = o.common.seed;
  folder.begin();
  const std::vector<size_t> missing = folder.missing();
  draw(*model, o, prompts, folder, missing);
  const size_t shown =
      folder.write_grid(o.columns > 0 || o.count == 1 ? o.columns : o.count, o.scale);
  std::printf("%zu pictures in %s, %zu of them drawn now; grid.png shows %zu\n", prompts.size(),
              o.out.c_str(), missing.size(), shown);
}

void add_guidance_flags(CLI::App& app, EvalConfig& draw) {
  app.add_option("--negative-prompt", draw.negative,
                 "What classifier-free guidance leads away from");
  SkipLayers& skip = draw.skip;
  app.add_option("--skip-layers", skip.layers,
                 "SD3: layers that skip-layer guidance leaves out (7,8,9 for SD3.5-Medium)")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--skip-scale", skip.scale, "Its factor")->capture_default_str();
  app.add_option("--skip-start", skip.start, "Share of the steps that it starts behind")
      ->capture_default_str();
  app.add_option("--skip-stop", skip.stop, "Share of the steps that it stops before")
      ->capture_default_str();
}

}  // namespace

void add_sample(CLI::App& parent) {
  auto o = std::make_shared<SampleOptions>();
  CLI::App* app = parent.add_subcommand(
      "sample", "Draw pictures of prompts; a second call draws what a killed one left out");
  add_model_flags(*app, o->model);
  add_guidance_flags(*app, o->model.draw);
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
  app->add_option("--out", o->out,
                  "Folder for 00000.png ..., grid.png, prompts.jsonl and sample.json, the settings")
      ->required();
  add_common(*app, o->common);
  app->callback([o] { run(*o, apply(o->common)); });
}

}  // namespace parlo
