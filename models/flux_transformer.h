// The transformer of FLUX.1, with the key names and config.json of diffusers'
// FluxTransformer2DModel. Predicts the velocity noise - x0 of latents packed into tokens.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/flux_blocks.h"
#include "models/transformer_file.h"

namespace parlo {

struct FluxConfig {
  int64_t in_channels = 64;  // of a packed token: 16 latent channels x 2 x 2
  int64_t out_channels = 64;
  int64_t num_layers = 19;         // double blocks
  int64_t num_single_layers = 38;  // single blocks
  int64_t attention_head_dim = 128;
  int64_t num_attention_heads = 24;
  int64_t joint_attention_dim = 4096;   // width of the text tokens
  int64_t pooled_projection_dim = 768;  // width of the pooled text
  bool guidance_embeds = false;         // guidance is an input, as in the distilled dev model
  std::vector<int64_t> axes_dims_rope = {16, 56, 56};

  int64_t width() const { return attention_head_dim * num_attention_heads; }
  static FluxConfig from_json(const std::filesystem::path& config_json);
  // From the config.json or, in the original layout, the shapes; what they do not tell
  // (axes_dims_rope) is as in a config.json beside the file or as in every published model.
  static FluxConfig of(const TransformerFile& file);
  std::string to_json() const;
};

FluxConfig flux_dev();   // black-forest-labs/FLUX.1-dev
FluxConfig flux_tiny();  // the built-in world's size: 32x32 RGB pixels packed 4x4

// The reference's forward arguments.
struct FluxInputs {
  Var hidden_states;          // [B, N, in_channels]
  Var encoder_hidden_states;  // [B, T, joint_attention_dim]
  Var pooled_projections;     // [B, pooled_projection_dim]
  Var timestep;               // [B], sigma in 0..1
  Var img_ids;                // [N, 3]
  Var txt_ids;                // [T, 3]
  Var guidance = {};          // [B]; exactly where the configuration has guidance_embeds
};

class FluxTransformer : public MmditBase {
 public:
  explicit FluxTransformer(const FluxConfig& config);
  // A folder or file that TransformerFile can open.
  static std::unique_ptr<FluxTransformer> load(const TransformerFile& file,
                                               const Placement& to = {});
  static std::unique_ptr<FluxTransformer> load(const std::filesystem::path& place,
                                               const Placement& to = {});
  void save(const std::filesystem::path& folder) const;

  // -> sample [B, N, out_channels]
  Var forward(const FluxInputs& in) const;
  // The same on what a device needs: sinusoidal features of the timestep and, behind them, of the
  // guidance [B, features()], and positions made once.
  Var forward_features(const Var& hidden_states, const Var& features,
                       const Var& encoder_hidden_states, const Var& pooled_projections,
                       const JointRotation& at) const;
  int64_t features() const { return (config_.guidance_embeds ? 2 : 1) * kTimestepChannels; }
  // Positions on the device of the model, of text and image in this order.
  JointRotation rotation(const Var& txt_ids, const Var& img_ids) const;

  const FluxConfig& config() const { return config_; }
  Linears linears();
  // Zeroes the modulation and output layers, the usual start of a transformer trained from nothing:
  // every block is the identity and the first prediction is 0.
  void zero_output_layers();

 private:
  Var embedding(const Var& features, const Var& pooled_projections) const;
  void run(const FluxDoubleBlock& block, Var& x, Var& text, const Var& silu_temb,
           const JointRotation& at) const;

  FluxConfig config_;
  Linear x_embedder_, context_embedder_;
  EmbeddingMlp timestep_embedder_, guidance_embedder_, text_embedder_;
  std::vector<FluxDoubleBlock> blocks_;
  std::vector<FluxSingleBlock> single_blocks_;
  AdaLayerNorm norm_out_;
  Linear proj_out_;
};

}  // namespace parlo
