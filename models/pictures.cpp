#include "models/pictures.h"

namespace parlo {

Shape picture_latents(const PipelineSettings& settings, const AutoencoderKl* vae,
                      const LatentRule& rule) {
  const int64_t scale = vae ? vae->config().downscale() : 1, unit = scale * rule.patch;
  const auto side = [&](const char* name, int64_t given) {
    const int64_t pixels = given == 0 ? rule.pixels : given;
    const auto fail = [&](const auto&... expected) {
      throw UsageError(concat("picture ", name, " is ", pixels, " pixels, expected ", expected...));
    };
    if (pixels <= 0 || pixels % unit != 0) fail("a multiple of ", unit, " for this model");
    if (rule.most > 0 && pixels / unit > rule.most) {
      fail("at most ", rule.most * unit, ", for which this model has positions");
    }
    return pixels / scale;
  };
  return {rule.channels, side("height", settings.height), side("width", settings.width)};
}

void apply_settings(const PipelineSettings& settings, AutoencoderKl* vae, Device device) {
  if (vae == nullptr) return;
  vae->tiling = settings.vae_tiling;
  if (!settings.vae_bf16) return;
  if (device.is_cpu()) {
    throw UsageError("an autoencoder in bf16 needs a GPU; leave it in f32 on a CPU");
  }
  vae->params().narrow_weights();
  vae->compute = DType::bf16;
}

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
