// CLIP text and image towers with the key names and config.json of transformers' CLIPTextModel,
// CLIPTextModelWithProjection, CLIPVisionModelWithProjection and CLIPModel.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/json_config.h"
#include "models/layers.h"

namespace parlo {

struct ClipTowerConfig {
  int64_t hidden_size = 768;
  int64_t intermediate_size = 3072;
  int64_t num_hidden_layers = 12;
  int64_t num_attention_heads = 12;
  Activation activation = Activation::quick_gelu;
  double layer_norm_eps = 1e-5;
  // Text tower.
  int64_t vocab_size = 49408;
  int64_t max_position_embeddings = 77;
  int64_t eos_token_id = 49407;  // 2, a legacy value, means: pool at the largest id
  // Image tower.
  int64_t image_size = 224;
  int64_t patch_size = 14;
  int64_t num_channels = 3;
  // Output size of the projection; 0 without one.
  int64_t projection_dim = 0;

  static ClipTowerConfig from_json(const JsonConfig& json);
  // config.json of a text tower alone, which has a projection or none.
  std::string text_json(bool with_projection = true) const;
};

struct ClipBlock {
  LayerNorm layer_norm1, layer_norm2;
  Linear q, k, v, out, fc1, fc2;
  int64_t heads = 1;
  Activation activation = Activation::quick_gelu;

  ClipBlock(const Scope& scope, const ClipTowerConfig& config);
  Var operator()(const Var& x, const AttentionArgs& args) const;
};

struct ClipTextOutput {
  std::vector<Var> hidden_states;  // embeddings, then the output of every layer
  Var last_hidden_state;           // after the final layer norm
  Var pooler_output;               // last_hidden_state at the end-of-text token
  Var text_embeds;                 // projected; undefined without a projection
};

class ClipText {
 public:
  // scope is the root ("text_model" and "text_projection" are added here).
  ClipText(const Scope& scope, const ClipTowerConfig& config, bool with_projection);
  // ids [B, T] i64 -> token embeddings [B, T, C] (no positions yet).
  Var embed(const Tensor& ids) const;
  // From token embeddings, so that callers can replace rows of them. attention_mask [B, T] i64,
  // optional: 1 for keys that may be seen.
  ClipTextOutput forward(const Var& embeds, const Tensor& ids,
                         const Tensor& attention_mask = {}) const;
  const ClipTowerConfig& config() const { return config_; }
  void collect(Linears& out);

 private:
  ClipTowerConfig config_;
  Var token_embedding_, position_embedding_;
  std::vector<ClipBlock> blocks_;
  LayerNorm final_layer_norm_;
  Linear projection_;
};

struct ClipVisionOutput {
  std::vector<Var> hidden_states;  // after pre_layrnorm, then the output of every layer
  Var last_hidden_state;           // the last layer's output
  Var pooler_output;               // post_layernorm of the class token
  Var image_embeds;                // projected; undefined without a projection
};

class ClipVision {
 public:
  ClipVision(const Scope& scope, const ClipTowerConfig& config, bool with_projection);
  // pixel_values [B, C, S, S], normalised.
  ClipVisionOutput forward(const Var& pixel_values) const;
  const ClipTowerConfig& config() const { return config_; }
  void collect(Linears& out);

 private:
  ClipTowerConfig config_;
  Var class_embedding_, position_embedding_;
  PatchEmbed patch_embedding_;
  LayerNorm pre_layer_norm_, post_layer_norm_;
  std::vector<ClipBlock> blocks_;
  Linear projection_;
};

// Both towers with the learned temperature.
struct ClipOutput {
  Var text_embeds, image_embeds;          // normalised to length 1
  Var logits_per_image, logits_per_text;  // exp(logit_scale) * cosine
};

struct ClipConfig {
  ClipTowerConfig text, vision;
  int64_t projection_dim = 512;
  double logit_scale_init = 2.6592;

  static ClipConfig from_json(const std::filesystem::path& path);
  std::string to_json() const;
};

ClipConfig clip_tiny();  // the built-in world's scorer and text encoder

class ClipModel {
 public:
  explicit ClipModel(const ClipConfig& config);
  ClipModel(const ClipModel&) = delete;
  ClipModel& operator=(const ClipModel&) = delete;
  static std::unique_ptr<ClipModel> load(const std::filesystem::path& folder,
                                         const Placement& to = {});
  void save(const std::filesystem::path& folder) const;

  // Normalised embeddings.
  Var text_features(const Tensor& ids, const Tensor& attention_mask = {}) const;
  Var image_features(const Var& pixel_values) const;
  ClipOutput forward(const Var& token_embeds, const Tensor& ids, const Var& pixel_values,
                     const Tensor& attention_mask = {}) const;
  const Var& logit_scale() const { return logit_scale_; }

  const ClipConfig& config() const { return config_; }
  const ClipText& text() const { return text_; }
  const ClipVision& vision() const { return vision_; }
  Linears linears();
  Params& params() { return params_; }

 private:
  ClipConfig config_;
  Params params_;
  Var logit_scale_;
  ClipText text_;
  ClipVision vision_;
};

// A tower alone, as text encoder of a diffusion pipeline or for `parlo forward`.
class ClipTextModel {
 public:
  ClipTextModel(const ClipTowerConfig& config, bool with_projection);
  // with_projection is read from the file: a text_projection.weight or none.
  static std::unique_ptr<ClipTextModel> load(const std::filesystem::path& folder,
                                             const Placement& to = {});
  // The text tower of a whole CLIP; shares its tensors.
  static std::unique_ptr<ClipTextModel> of(ClipModel& clip);
  void save(const std::filesystem::path& folder) const;
  const ClipText& tower() const { return tower_; }
  Linears linears();
  Params& params() { return params_; }

 private:
  Params params_;
  ClipText tower_;
};

class ClipVisionModel {
 public:
  ClipVisionModel(const ClipTowerConfig& config, bool with_projection);
  static std::unique_ptr<ClipVisionModel> load(const std::filesystem::path& folder,
                                               const Placement& to = {});
  const ClipVision& tower() const { return tower_; }
  Linears linears();
  Params& params() { return params_; }

 private:
  Params params_;
  ClipVision tower_;
};

}  // namespace parlo
