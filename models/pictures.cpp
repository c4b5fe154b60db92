#include "models/pictures.h"

namespace parlo {

Tensor decode_pictures(const AutoencoderKl* vae, const Tensor& latents) {
  const NoGrad guard;
  CHECK(latents.rank() == 4 && latents.dim(0) > 0,
        "decode: expected latents [B, C, H, W] of at least one picture, got ", latents.shape());
  if (!vae) return affine(Var(latents), 0.5, 0.5).value();
  std::vector<Var> pictures;
  for (int64_t b = 0; b < latents.dim(0); ++b) {
    const Var sample = vae->decode(vae->unscaled(Var(latents.slice(0, b, b + 1))));
    pictures.push_back(affine(sample, 0.5, 0.5));
  }
  return pictures.size() == 1 ? pictures[0].value() : cat(pictures, 0).value();
}

}  // namespace parlo
