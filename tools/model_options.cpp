#include "tools/model_options.h"

#include <cmath>

#include "lora/adapter.h"
#include "models/sd3_pipeline.h"
#include "tools/assets.h"
#include "tools/paths.h"

namespace parlo {

void add_model_flags(CLI::App& app, ModelOptions& o) {
  app.add_option("--base", o.base, "Model folder; default: the built-in world's");
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
  const std::filesystem::path base = o.base.empty() ? signs_base() : std::filesystem::path(o.base);
  require_folder(base, "--base", "a model folder with transformer/, text_encoder/, tokenizer/");
  return Sd3Pipeline::load(base, device);
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
