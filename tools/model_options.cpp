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

std::unique_ptr<FlowModel> open_model(const std::string& base, Device device,
                                      const std::string& dtype, const TextSettings& given) {
  TextSettings text = given;
  text.warn = [](const std::string& line) { std::fprintf(stderr, "parlo: %s\n", line.c_str()); };
  const std::filesystem::path folder = base.empty() ? signs_base() : std::filesystem::path(base);
  require_folder(folder, "--base", "a model folder with transformer/, text_encoder/, tokenizer/");
  return load_flow_model(folder, device, dtype == "bf16" ? DType::bf16 : DType::f32, text);
}

void add_model_flags(CLI::App& app, ModelOptions& o) {
  app.add_option("--base", o.base, "Model folder; default: the built-in world's");
  add_dtype_flag(app, o.dtype);
  add_text_flags(app, o.text);
  app.add_option("--steps", o.draw.steps, "Sampler steps")->capture_default_str();
  app.add_option("--guidance", o.draw.guidance, "Classifier-free guidance; 1: none")
      ->capture_default_str();
  app.add_option("--batch", o.draw.micro_batch, "Pictures at a time; no effect on results")
      ->capture_default_str();
}

std::unique_ptr<FlowModel> load_model(const ModelOptions& o, Device device) {
  if (o.draw.steps < 1) throw UsageError(concat("--steps ", o.draw.steps, ": expected 1 or more"));
  if (o.draw.micro_batch < 1) {
    throw UsageError(concat("--batch ", o.draw.micro_batch, ": expected 1 or more"));
  }
  if (!std::isfinite(o.draw.guidance)) {
    throw UsageError(concat("--guidance ", o.draw.guidance, ": expected a finite number"));
  }
  return open_model(o.base, device, o.dtype, o.text);
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
