// Pictures from a transformer's latents.
#pragma once

#include "models/autoencoder_kl.h"

namespace parlo {

// Latents [B, ...] -> [B, 3, H, W] in [0, 1] (not clipped), one after the other. Without an
// autoencoder the latents are the pixels themselves, in [-1, 1].
Tensor decode_pictures(const AutoencoderKl* vae, const Tensor& latents);

}  // namespace parlo
