// Pictures and a transformer's latents: which size, and from the one to the other.
#pragma once

#include "models/autoencoder_kl.h"

namespace parlo {

// How a pipeline draws, whatever its architecture.
struct PipelineSettings {
  int64_t height = 0, width = 0;  // pixels; 0: what the model was made for
  double guidance = 3.5;          // embedded, where the model takes it as an input (FLUX.1-dev)
  bool vae_tiling = false;        // large pictures in tiles (AutoencoderKl::tiling)
  bool vae_bf16 = false;          // the autoencoder's weights and activations; needs a GPU
  // Rounds timesteps and guidance as the reference's bf16 pipeline does: t = 750 becomes 752, a
  // guidance of 3.5 counts as 3.504. For comparing with it (FLUX).
  bool reference_bf16 = false;
};

// What a transformer asks of its latents.
struct LatentRule {
  int64_t channels = 0;
  int64_t patch = 1;   // latents along a token's side
  int64_t pixels = 0;  // of a picture's side where none is asked for
  int64_t most = 0;    // tokens along a side that it has positions for; 0: any number
};

// [C, h, w] of pictures of the settings' size. UsageError naming the multiple that height and width
// must be of, or the largest that they can be.
Shape picture_latents(const PipelineSettings& settings, const AutoencoderKl* vae,
                      const LatentRule& rule);

// What the settings say of the autoencoder (null: nothing). `device` is where it will run;
// UsageError for bf16 on a CPU.
void apply_settings(const PipelineSettings& settings, AutoencoderKl* vae, Device device);

// Latents [B, ...] -> [B, 3, H, W] in [0, 1] (not clipped), one after the other. Without an
// autoencoder the latents are the pixels themselves, in [-1, 1].
Tensor decode_pictures(const AutoencoderKl* vae, const Tensor& latents);

}  // namespace parlo
