// config.json of CLIP towers, and the preset of the built-in world.
#include <nlohmann/json.hpp>

#include "models/clip.h"

namespace parlo {
namespace {

Activation activation_of(const std::string& name) {
  if (name == "quick_gelu") return Activation::quick_gelu;
  if (name == "gelu") return Activation::gelu_erf;
  throw Error("config.json: hidden_act is \"" + name + "\", expected quick_gelu or gelu");
}

nlohmann::ordered_json tower_json(const ClipTowerConfig& c) {
  nlohmann::ordered_json j;
  j["hidden_act"] = c.activation == Activation::quick_gelu ? "quick_gelu" : "gelu";
  j["hidden_size"] = c.hidden_size;
  j["intermediate_size"] = c.intermediate_size;
  j["layer_norm_eps"] = c.layer_norm_eps;
  j["num_attention_heads"] = c.num_attention_heads;
  j["num_hidden_layers"] = c.num_hidden_layers;
  j["projection_dim"] = c.projection_dim;
  return j;
}

void add_text_fields(nlohmann::ordered_json& j, const ClipTowerConfig& c) {
  j["eos_token_id"] = c.eos_token_id;
  j["max_position_embeddings"] = c.max_position_embeddings;
  j["model_type"] = "clip_text_model";
  j["vocab_size"] = c.vocab_size;
}

}  // namespace

std::string ClipTowerConfig::text_json(bool with_projection) const {
  nlohmann::ordered_json j = tower_json(*this);
  j["architectures"] = {with_projection ? "CLIPTextModelWithProjection" : "CLIPTextModel"};
  add_text_fields(j, *this);
  return j.dump(2) + "\n";
}

ClipTowerConfig ClipTowerConfig::from_json(const JsonConfig& json) {
  ClipTowerConfig c;
  c.hidden_size = json.integer("hidden_size", c.hidden_size);
  c.intermediate_size = json.integer("intermediate_size", c.intermediate_size);
  c.num_hidden_layers = json.integer("num_hidden_layers", c.num_hidden_layers);
  c.num_attention_heads = json.integer("num_attention_heads", c.num_attention_heads);
  c.activation = activation_of(json.text("hidden_act", "quick_gelu"));
  c.layer_norm_eps = json.number("layer_norm_eps", c.layer_norm_eps);
  c.vocab_size = json.integer("vocab_size", c.vocab_size);
  c.max_position_embeddings = json.integer("max_position_embeddings", c.max_position_embeddings);
  c.eos_token_id = json.integer("eos_token_id", c.eos_token_id);
  c.image_size = json.integer("image_size", c.image_size);
  c.patch_size = json.integer("patch_size", c.patch_size);
  c.num_channels = json.integer("num_channels", c.num_channels);
  c.projection_dim = json.integer("projection_dim", 512);
  return c;
}

ClipConfig ClipConfig::from_json(const std::filesystem::path& path) {
  const JsonConfig json(path);
  ClipConfig c;
  c.text = ClipTowerConfig::from_json(json.object("text_config"));
  c.vision = ClipTowerConfig::from_json(json.object("vision_config"));
  c.projection_dim = json.integer("projection_dim", c.projection_dim);
  c.logit_scale_init = json.number("logit_scale_init_value", c.logit_scale_init);
  // The outer size is the one both projections have.
  c.text.projection_dim = c.vision.projection_dim = c.projection_dim;
  return c;
}

std::string ClipConfig::to_json() const {
  nlohmann::ordered_json j;
  j["architectures"] = {"CLIPModel"};
  j["logit_scale_init_value"] = logit_scale_init;
  j["model_type"] = "clip";
  j["projection_dim"] = projection_dim;
  j["text_config"] = tower_json(text);
  add_text_fields(j["text_config"], text);
  j["vision_config"] = tower_json(vision);
  j["vision_config"]["image_size"] = vision.image_size;
  j["vision_config"]["model_type"] = "clip_vision_model";
  j["vision_config"]["num_channels"] = vision.num_channels;
  j["vision_config"]["patch_size"] = vision.patch_size;
  return j.dump(2) + "\n";
}

ClipConfig clip_tiny() {
  ClipConfig c;
  c.projection_dim = 64;
  c.text.hidden_size = 64;
  c.text.intermediate_size = 256;
  c.text.num_hidden_layers = 3;
  c.text.num_attention_heads = 4;
  c.text.max_position_embeddings = 16;
  c.text.projection_dim = 64;
  c.vision.hidden_size = 96;
  c.vision.intermediate_size = 384;
  c.vision.num_hidden_layers = 4;
  c.vision.num_attention_heads = 4;
  c.vision.image_size = 32;
  c.vision.patch_size = 4;
  c.vision.projection_dim = 64;
  return c;
}

}  // namespace parlo
