#include "tools/model_options.h"

#include <cmath>
#include <cstdio>

#include "lora/adapter.h"
#include "models/load_flow_model.h"
#include "tools/assets.h"
#include "tools/paths.h"

namespace parlo {

void add_dtype_flag(CLI::App& app, std::string& dtype) {
  app.add_option("--dtype", dtype,
                 "f32, or bf16: frozen weights, and on a GPU activations; folded weights are "
                 "rounded to it")
      ->capture_default_str()
      ->check(CLI::IsMember({"f32", "bf16"}));
}

CLI::Option* add_text_flags(CLI::App& app, TextSettings& s) {
  app.add_option("--text-tokens", s.t5_tokens, "Length of T5's text; 0: 256 (SD3), 512 (FLUX)")
      ->capture_default_str()
      ->check(CLI::Range(0, 4096));
  return app.add_option(
      "--text-cache", s.cache,
      "Folder that keeps the text encoders' states of prompts, for other runs as well");
}

std::array<CLI::Option*, 2> add_base_flags(CLI::App& app, std::string& base, std::string& parts) {
  return {app.add_option("--base", base,
                         "Model folder, or with --components a transformer's folder or "
                         ".safetensors file; default: the built-in world's"),
          app.add_option("--components", parts,
                         "Model folder for what is not in --base: text encoders, tokenizers, "
                         "scheduler, autoencoder")};
}

namespace {

ModelFiles find_files(const std::string& base, const std::string& parts) {
  namespace fs = std::filesystem;
  if (base.empty() && !parts.empty()) {
    throw UsageError("--components needs --base, a transformer's folder or .safetensors file");
  }
  const fs::path place = base.empty() ? signs_base() : fs::path(base);
  std::error_code ignored;
  if (!parts.empty()) {
    require_place(place, "--base", "a transformer's folder or .safetensors file");
    require_folder(parts, "--components",
                   "a model folder with text_encoder/, tokenizer/, scheduler/, vae/");
    const bool pipeline = fs::is_directory(place / "transformer", ignored);
    return {pipeline ? place / "transformer" : place, parts};
  }
  if (fs::is_regular_file(place, ignored)) {
    throw UsageError(
        concat("--base ", base, " is a file, without text encoders, tokenizers and scheduler; ",
               "add --components FOLDER, a model folder with text_encoder/, tokenizer/, ",
               "scheduler/ (and vae/, unless the file has first_stage_model.*)"));
  }
  require_folder(place, "--base", "a model folder with transformer/, text_encoder/, tokenizer/");
  return place;
}

}  // namespace

void tell_what_is_used(const std::string& base, const std::string& parts) {
  const std::string used = find_files(base, parts).used();
  if (!used.empty()) std::fprintf(stderr, "parlo: %s\n", used.c_str());
}

std::unique_ptr<FlowModel> open_model(const std::string& base, const std::string& parts,
                                      Device device, const std::string& dtype,
                                      const TextSettings& given, const PipelineSettings& pictures) {
  TextSettings text = given;
  text.warn = [](const std::string& line) { std::fprintf(stderr, "parlo: %s\n", line.c_str()); };
  return load_flow_model(find_files(base, parts), device,
                         dtype == "bf16" ? DType::bf16 : DType::f32, text, pictures);
}

void add_picture_flags(CLI::App& app, PipelineSettings& pictures, GuidanceFlags& g) {
  constexpr int64_t kMostPixels = 16384;
  app.add_option("--height", pictures.height, "Height of pictures; 0: what the model was made for")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, kMostPixels));
  app.add_option("--width", pictures.width, "Width of pictures, as --height")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, kMostPixels));
  app.add_option("--guidance", g.guidance,
                 "Guidance: the embedded one of a model that takes it (FLUX.1-dev; default 3.5), "
                 "else classifier-free (default 1: none); 0: the default")
      ->capture_default_str();
  app.add_option("--true-cfg", g.true_cfg,
                 "Classifier-free guidance beside the embedded one; 1: none")
      ->capture_default_str();
  app.add_flag("--vae-tiling", pictures.vae_tiling,
               "Decode in tiles: memory of one tile, faint seams");
  app.add_flag("--vae-bf16", pictures.vae_bf16, "GPU: the autoencoder in bf16");
}

void check_pictures(PipelineSettings& pictures, const GuidanceFlags& g) {
  if (!std::isfinite(g.guidance) || g.guidance < 0) {
    throw UsageError(concat("--guidance ", g.guidance, ": expected a finite number >= 0"));
  }
  if (!std::isfinite(g.true_cfg)) {
    throw UsageError(concat("--true-cfg ", g.true_cfg, ": expected a finite number"));
  }
  if (g.guidance > 0) pictures.guidance = g.guidance;
}

double classifier_free(const FlowModel& model, const GuidanceFlags& g) {
  if (model.embeds_guidance()) return g.true_cfg;
  if (g.true_cfg != 1) {
    throw UsageError(
        "--true-cfg is for models with an embedded guidance beside it; this model's guidance is "
        "classifier-free: use --guidance");
  }
  return g.guidance > 0 ? g.guidance : 1.0;
}

void add_model_flags(CLI::App& app, ModelOptions& o) {
  add_base_flags(app, o.base, o.parts);
  add_dtype_flag(app, o.dtype);
  add_text_flags(app, o.text);
  app.add_option("--steps", o.draw.steps, "Sampler steps")->capture_default_str();
  add_picture_flags(app, o.pictures, o.guidance);
  app.add_option("--batch", o.draw.micro_batch, "Pictures at a time; no effect on results")
      ->capture_default_str();
}

std::unique_ptr<FlowModel> load_model(ModelOptions& o, Device device) {
  if (o.draw.steps < 1) throw UsageError(concat("--steps ", o.draw.steps, ": expected 1 or more"));
  if (o.draw.micro_batch < 1) {
    throw UsageError(concat("--batch ", o.draw.micro_batch, ": expected 1 or more"));
  }
  check_pictures(o.pictures, o.guidance);
  tell_what_is_used(o.base, o.parts);
  auto model = open_model(o.base, o.parts, device, o.dtype, o.text, o.pictures);
  o.draw.guidance = classifier_free(*model, o.guidance);
  return model;
}

void put_on(FlowModel& model, const std::string& adapter) {
  LoraAdapter::load(model.linears(), adapter).enable(model.linears());
}

std::vector<Prompt> gather_prompts(const std::vector<std::string>& texts, const std::string& file) {
  std::vector<Prompt> prompts;
  for (const std::string& text : texts) {
    if (text.find_first_not_of(" \t\r\n") == std::string::npos) {
      throw UsageError("--prompt is empty");
    }
    Prompt p;
    p.id = static_cast<int64_t>(prompts.size());
    p.text = text;
    p.word = quoted_text(text);
    prompts.push_back(std::move(p));
  }
  if (!file.empty()) {
    const std::vector<Prompt> more = read_prompts(file);
    prompts.insert(prompts.end(), more.begin(), more.end());
  }
  if (prompts.empty()) throw UsageError("no prompt given; use --prompt TEXT or --prompts FILE");
  return prompts;
}

}  // namespace parlo
