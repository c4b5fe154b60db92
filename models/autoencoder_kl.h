// The image autoencoder of latent diffusion (SD3 and FLUX: 16 channels at 1/8 of the size), with
// the key names and config.json of diffusers' AutoencoderKL; the original repositories' names are
// read too. Two kinds of latents: z, which the convolutions know, and those that the transformer
// knows, (z - shift) * scale.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/vae_layers.h"
#include "tensor/safetensors.h"

namespace parlo {

struct AutoencoderKlConfig {
  int64_t in_channels = 3;
  int64_t out_channels = 3;
  int64_t latent_channels = 16;
  std::vector<int64_t> block_out_channels = {128, 256, 512, 512};
  int64_t layers_per_block = 2;
  int64_t norm_num_groups = 32;
  int64_t sample_size = 1024;  // height and width of a tile, in pixels
  double scaling_factor = 1.0;
  double shift_factor = 0.0;
  bool use_quant_conv = false;
  bool use_post_quant_conv = false;
  bool mid_block_add_attention = true;

  int64_t levels() const { return static_cast<int64_t>(block_out_channels.size()); }
  // Pixels along a latent's side: 8.
  int64_t downscale() const { return int64_t{1} << (levels() - 1); }
  static AutoencoderKlConfig from_json(const std::filesystem::path& config_json);
  std::string to_json() const;
};

AutoencoderKlConfig sd3_vae();   // stabilityai/stable-diffusion-3.5-medium
AutoencoderKlConfig flux_vae();  // black-forest-labs/FLUX.1-dev
AutoencoderKlConfig tiny_vae();  // 4 channels at 1/4 of the size, for tests and small worlds

// A level of the encoder or decoder: ResNet blocks and, except in the last level, a convolution
// that halves the size or one behind a nearest upsampling that doubles it.
struct VaeLevel {
  std::vector<ResnetBlock> resnets;
  std::optional<Convolution> resample;
};

// x [B, C, 1, H, W] -> [B, C', 1, H', W']. Levels in the order in which they run.
struct VaeStack {
  bool decodes = false;
  Convolution conv_in, conv_out;
  std::vector<VaeLevel> levels;
  std::optional<MidBlock> mid;
  GroupNorm conv_norm_out;

  VaeStack() = default;
  VaeStack(const Scope& scope, const AutoencoderKlConfig& config, bool decodes);
  // checkpoint_blocks: recompute every block in the backward.
  Var operator()(const Var& x, bool checkpoint_blocks) const;
};

// A diagonal normal distribution of z.
struct ZDistribution {
  Var mean, logvar;  // [B, latent_channels, h, w]; logvar within [-30, 20]
};

class AutoencoderKl {
 public:
  explicit AutoencoderKl(const AutoencoderKlConfig& config);
  AutoencoderKl(const AutoencoderKl&) = delete;
  AutoencoderKl& operator=(const AutoencoderKl&) = delete;
  // A diffusers folder: config.json + diffusion_pytorch_model.safetensors.
  static std::unique_ptr<AutoencoderKl> load(const std::filesystem::path& folder,
                                             const Placement& to = {});
  // A file with names of either kind, the autoencoder alone (ae.safetensors) or within a whole
  // model's checkpoint, under first_stage_model. or vae.
  static std::unique_ptr<AutoencoderKl> load_file(const std::filesystem::path& file,
                                                  const AutoencoderKlConfig& config,
                                                  const Placement& to = {});
  void save(const std::filesystem::path& folder) const;

  // images [B, in_channels, H, W] in [-1, 1], H and W at least downscale(); a rest that does not
  // fill a latent is cut off at the right and at the bottom, as in the reference.
  ZDistribution encode(const Var& images) const;
  // z [B, latent_channels, h, w] -> images [B, out_channels, H, W] in about [-1, 1]. Without
  // gradients (NoGrad) activations are freed on the way: 640 floats a pixel at once for SD3 and
  // FLUX, 671 MB at 512x512. A gradient keeps 4560 floats a pixel, 2460 with checkpoint_blocks.
  Var decode(const Var& z) const;
  // The transformer's latents of z, and back.
  Var scaled(const Var& z) const;
  Var unscaled(const Var& latents) const;
  // z drawn from a distribution: mean + exp(logvar / 2) n, n normal by the key. f32.
  static Var draw(const ZDistribution& z, RandomKey key);

  const AutoencoderKlConfig& config() const { return config_; }
  Params& params() { return params_; }
  const Params& params() const { return params_; }
  Linears linears();
  // Encode and decode what is larger than a tile in tiles of sample_size pixels with an overlap of
  // a quarter: memory then depends on the tile, and the result differs a little near the seams.
  bool tiling = false;
  // Keep only the blocks' inputs for the backward.
  bool checkpoint_blocks = false;
  // Of activations between input and output, which keep their own; bf16 needs a GPU.
  DType compute = DType::f32;

 private:
  Var encoded(const Var& images) const;
  Var decoded(const Var& z) const;

  AutoencoderKlConfig config_;
  Params params_;
  VaeStack encoder_, decoder_;
  std::optional<Convolution> quant_conv_, post_quant_conv_;
};

// The tensors of an autoencoder in a file under the names above: a prefix is cut off, names of the
// original repositories and of old diffusers versions are translated, 1x1 convolutions that are
// linears here lose their last axes. Other names stay, so that a strict loader can list them.
std::vector<StoredTensor> autoencoder_kl_tensors(const SafeTensors& file, int64_t levels);
// What stands before the names of an autoencoder within a whole model's file ("first_stage_model."
// or "vae."; diffusers' single_file_utils.py); empty where none has it.
std::string_view autoencoder_kl_prefix(const SafeTensors& file);
// A single name.
std::string autoencoder_kl_name(const std::string& name, int64_t levels);

}  // namespace parlo
