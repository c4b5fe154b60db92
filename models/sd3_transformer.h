// The MMDiT-X of Stable Diffusion 3.5 Medium (and SD3, SD3.5 Large by configuration), with the key
// names and config.json of diffusers' SD3Transformer2DModel. Predicts the velocity noise - x0.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/mmdit.h"
#include "models/transformer_file.h"

namespace parlo {

struct Sd3Config {
  int64_t sample_size = 128;  // latent height and width the position table is centred on
  int64_t patch_size = 2;
  int64_t in_channels = 16;
  int64_t out_channels = 16;
  int64_t num_layers = 24;
  int64_t attention_head_dim = 64;
  int64_t num_attention_heads = 24;
  int64_t joint_attention_dim = 4096;
  int64_t caption_projection_dim = 1536;
  int64_t pooled_projection_dim = 2048;
  int64_t pos_embed_max_size = 384;
  std::vector<int64_t> dual_attention_layers;
  bool qk_norm = true;

  int64_t width() const { return attention_head_dim * num_attention_heads; }
  static Sd3Config from_json(const std::filesystem::path& config_json);
  // From the config.json or, in the original layout, the shapes; what they do not tell
  // (sample_size) is as in a config.json beside the file or as in every published model.
  static Sd3Config of(const TransformerFile& file);
  std::string to_json() const;
};

Sd3Config sd3_medium();  // stabilityai/stable-diffusion-3.5-medium
Sd3Config sd3_tiny();    // the built-in world's model: 32x32 RGB pixels

struct Sd3Block {
  std::string name;  // in profiles
  bool dual = false, last = false;
  AdaLayerNorm norm1, norm1_context;
  QkvStream image, text, second;
  Linear to_out, to_add_out, second_out;
  FeedForward ff, ff_context;

  Sd3Block(const Scope& scope, const Sd3Config& config, int64_t index);
  // Updates image tokens x [B, N, D] and text tokens c [B, T, D] (untouched by the last block).
  void operator()(Var& x, Var& c, const Var& silu_temb) const;
};

class Sd3Transformer : public MmditBase {
 public:
  explicit Sd3Transformer(const Sd3Config& config);
  // A folder or file that TransformerFile can open.
  static std::unique_ptr<Sd3Transformer> load(const TransformerFile& file,
                                              const Placement& to = {});
  static std::unique_ptr<Sd3Transformer> load(const std::filesystem::path& place,
                                              const Placement& to = {});
  void save(const std::filesystem::path& folder) const;

  // hidden_states [B, C, H, W], timestep [B] in 0..1000, encoder_hidden_states [B, T, joint],
  // pooled_projections [B, pooled] -> sample [B, C, H, W].
  Var forward(const Var& hidden_states, const Var& timestep, const Var& encoder_hidden_states,
              const Var& pooled_projections) const;
  // The same with timestep_features(timestep) [B, 256] in the timestep's place.
  // Blocks that are `skipped` (their indices) pass their inputs on.
  Var forward_features(const Var& hidden_states, const Var& features,
                       const Var& encoder_hidden_states, const Var& pooled_projections,
                       std::span<const int64_t> skipped = {}) const;

  const Sd3Config& config() const { return config_; }
  Linears linears();
  // Zeroes the modulation and output layers, the usual start of a transformer trained from nothing:
  // every block is the identity and the first prediction is 0.
  void zero_output_layers();

 private:
  Var positions(int64_t height, int64_t width) const;

  Sd3Config config_;
  PatchEmbed patch_embed_;
  Var pos_embed_;
  EmbeddingMlp timestep_embedder_, text_embedder_;
  Linear context_embedder_;
  std::vector<Sd3Block> blocks_;
  AdaLayerNorm norm_out_;
  Linear proj_out_;
};

}  // namespace parlo
