#include "tools/model_preset.h"

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "models/flux_pipeline.h"
#include "models/sd3_pipeline.h"
#include "tensor/file.h"
#include "tools/preset_tokenizers.h"

namespace parlo {
namespace {

constexpr int64_t kClipTokens = 77;

template <class Model>
std::shared_ptr<const Params> params_of(std::shared_ptr<Model> model) {
  return {model, &model->params()};
}

PresetComponent transformer(const Sd3Config& c) {
  return {"transformer", "diffusers", "SD3Transformer2DModel", c.to_json(),
          params_of(std::make_shared<Sd3Transformer>(c))};
}

PresetComponent transformer(const FluxConfig& c) {
  return {"transformer", "diffusers", "FluxTransformer2DModel", c.to_json(),
          params_of(std::make_shared<FluxTransformer>(c))};
}

PresetComponent autoencoder(const AutoencoderKlConfig& c) {
  return {"vae", "diffusers", "AutoencoderKL", c.to_json(),
          params_of(std::make_shared<AutoencoderKl>(c))};
}

PresetComponent clip(const std::string& folder, const ClipTowerConfig& c, bool with_projection) {
  return {folder, "transformers", with_projection ? "CLIPTextModelWithProjection" : "CLIPTextModel",
          c.text_json(with_projection),
          params_of(std::make_shared<ClipTextModel>(c, with_projection))};
}

PresetComponent t5_xxl(const std::string& folder) {
  return {folder, "transformers", "T5EncoderModel", T5Config().to_json(),
          params_of(std::make_shared<T5EncoderModel>(T5Config()))};
}

// openai/clip-vit-large-patch14: text_encoder of both pipelines.
ClipTowerConfig clip_l() {
  ClipTowerConfig c;
  c.projection_dim = 768;
  c.eos_token_id = 2;
  return c;
}

// laion/CLIP-ViT-bigG-14-laion2B-39B-b160k: SD3's text_encoder_2.
ClipTowerConfig clip_g() {
  ClipTowerConfig c;
  c.hidden_size = 1280;
  c.intermediate_size = 5120;
  c.num_hidden_layers = 32;
  c.num_attention_heads = 20;
  c.activation = Activation::gelu_erf;
  c.projection_dim = 1280;
  c.eos_token_id = 2;
  return c;
}

void add_files(ModelPreset& p, const std::vector<PresetFile>& files) {
  p.files.insert(p.files.end(), files.begin(), files.end());
}

void add_scheduler(ModelPreset& p, double shift, bool dynamic) {
  FluxSchedule s;
  s.shift = shift;
  s.use_dynamic_shifting = dynamic;
  add_files(p, {{"scheduler/scheduler_config.json", s.to_json()}});
}

// stabilityai/stable-diffusion-3.5-medium.
ModelPreset sd3_medium_folder() {
  ModelPreset p;
  p.components = {transformer(sd3_medium()), clip("text_encoder", clip_l(), true),
                  clip("text_encoder_2", clip_g(), true), t5_xxl("text_encoder_3"),
                  autoencoder(sd3_vae())};
  add_files(p, clip_tokenizer_files("tokenizer", ClipTokenizer::kEos, kClipTokens));
  add_files(p, clip_tokenizer_files("tokenizer_2", "!", kClipTokens));
  add_files(p, t5_tokenizer_files("tokenizer_3", 512));
  add_scheduler(p, 3.0, false);
  return p;
}

// black-forest-labs/FLUX.1-dev.
ModelPreset flux_dev_folder() {
  ModelPreset p;
  p.components = {transformer(flux_dev()), clip("text_encoder", clip_l(), false),
                  t5_xxl("text_encoder_2"), autoencoder(flux_vae())};
  add_files(p, clip_tokenizer_files("tokenizer", ClipTokenizer::kEos, kClipTokens));
  add_files(p, t5_tokenizer_files("tokenizer_2", 512));
  add_scheduler(p, 3.0, true);
  return p;
}

// The built-in world's: pixels as latents, one small CLIP tower.
template <class Config>
ModelPreset tiny_folder(const Config& config) {
  ModelPreset p;
  p.published = DType::f32;
  add_files(p, clip_tokenizer_files("tokenizer", ClipTokenizer::kEos, kClipTokens));
  const ClipTokenizer tokenizer({p.files[0].content, p.files[1].content});
  ClipTowerConfig text = clip_tiny().text;
  text.vocab_size = tokenizer.size();
  text.eos_token_id = tokenizer.eos_id();
  p.components = {transformer(config), clip("text_encoder", text, true)};
  add_scheduler(p, 1.0, false);
  return p;
}

const std::map<std::string, std::function<ModelPreset()>> kPresets{
    {"sd3_tiny", [] { return tiny_folder(sd3_tiny()); }},
    {"sd3_medium", sd3_medium_folder},
    {"flux_tiny", [] { return tiny_folder(flux_tiny()); }},
    {"flux_dev", flux_dev_folder}};

// Which class loads what, for the reference library.
std::string model_index(const ModelPreset& p) {
  const bool flux = p.components.front().class_name == "FluxTransformer2DModel";
  nlohmann::ordered_json j;
  j["_class_name"] = flux ? "FluxPipeline" : "StableDiffusion3Pipeline";
  j["scheduler"] = {"diffusers", "FlowMatchEulerDiscreteScheduler"};
  for (const PresetComponent& c : p.components) {
    j[c.folder] = {c.library, c.class_name};
    if (!c.folder.starts_with("text_encoder")) continue;
    const std::string number = c.folder.substr(std::string("text_encoder").size());
    const bool t5 = c.class_name == "T5EncoderModel";
    j["tokenizer" + number] = {"transformers", t5 ? "T5TokenizerFast" : "CLIPTokenizer"};
  }
  return j.dump(2) + "\n";
}

}  // namespace

std::vector<std::string> model_preset_names() {
  std::vector<std::string> out;
  for (const auto& [name, make] : kPresets) out.push_back(name);
  return out;
}

ModelPreset model_preset(const std::string& name, const char* flag) {
  const auto found = kPresets.find(name);
  if (found == kPresets.end()) {
    std::string known;
    for (const std::string& n : model_preset_names()) known += (known.empty() ? "" : ", ") + n;
    throw UsageError(concat(flag, " ", name, ": no such model; expected one of ", known));
  }
  ModelPreset p = found->second();
  p.name = name;
  return p;
}

void write_configuration(const ModelPreset& p, const std::filesystem::path& folder) {
  const auto write = [&](const std::filesystem::path& path, const std::string& content) {
    make_folders((folder / path).parent_path());
    write_file(folder / path, content);
  };
  for (const PresetComponent& c : p.components) write(c.folder + "/config.json", c.config);
  for (const PresetFile& f : p.files) write(f.path, f.content);
  write("model_index.json", model_index(p));
}

}  // namespace parlo
