// The published models and the built-in world's, as folders without weights: what every component
// is, its config.json, tokenizers and schedules. Vocabularies are not published ones but small ones
// that any text can be encoded with, their ids within the text encoders' tables.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/params.h"

namespace parlo {

struct PresetComponent {
  std::string folder;      // "transformer"
  std::string library;     // that has its class, for model_index.json: diffusers or transformers
  std::string class_name;  // "SD3Transformer2DModel"
  std::string config;      // config.json
  // Declared names, shapes and starts; keeps the model alive that they belong to.
  std::shared_ptr<const Params> params;

  // What its weights' files begin with.
  std::string base() const { return library == "diffusers" ? "diffusion_pytorch_model" : "model"; }
};

struct PresetFile {
  std::filesystem::path path;  // within the folder
  std::string content;
};

struct ModelPreset {
  std::string name;
  std::vector<PresetComponent> components;
  std::vector<PresetFile> files;  // everything that is no component's config.json
  DType published = DType::bf16;  // of the weights
};

std::vector<std::string> model_preset_names();
// UsageError for another name, with those there are; `flag` is where it came from.
ModelPreset model_preset(const std::string& name, const char* flag = "--preset");
// Everything but the weights. The folder may exist.
void write_configuration(const ModelPreset& preset, const std::filesystem::path& folder);

}  // namespace parlo
