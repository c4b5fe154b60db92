// The image autoencoder (diffusers' AutoencoderKL): its two halves.
//   vae_encode  sample [B, 3, H, W] in [-1, 1] -> latents = (mean - shift) * scale, as a
//               transformer takes them, and the distribution's mean and logvar
//   vae_decode  z, or latents = (z - shift) * scale in its place -> image [B, 3, H, W] in about
//               [-1, 1]; the same under the reference's name, sample
#include "models/autoencoder_kl.h"
#include "tools/forward/components.h"

namespace parlo {
namespace {

using Kind = InputSpec::Kind;

std::shared_ptr<AutoencoderKl> load(const ForwardRequest& request, ForwardResult& r) {
  const std::shared_ptr<AutoencoderKl> model =
      AutoencoderKl::load(request.checkpoint, {request.device});
  r.model = model;
  prepare_model(request, model->params(), model->linears(), r);
  return model;
}

}  // namespace

ForwardResult forward_vae_encode(const ForwardRequest& request) {
  ForwardResult r;
  const std::shared_ptr<AutoencoderKl> model = load(request, r);
  const Inputs in(request.inputs,
                  {{"sample", Kind::real, {"B", model->config().in_channels, "H", "W"}}},
                  request.grads);
  const ZDistribution z = model->encode(leaf(request, in, "sample", r));
  r.outputs = {{"latents", model->scaled(z.mean)}, {"mean", z.mean}, {"logvar", z.logvar}};
  finish(request, in, r);
  return r;
}

ForwardResult forward_vae_decode(const ForwardRequest& request) {
  ForwardResult r;
  const std::shared_ptr<AutoencoderKl> model = load(request, r);
  const std::vector<Dim> dims = {"B", model->config().latent_channels, "h", "w"};
  const Inputs in(request.inputs,
                  {{"z", Kind::real, dims, true}, {"latents", Kind::real, dims, true}},
                  request.grads);
  const bool raw = in.at("z").defined();
  if (raw == in.at("latents").defined()) {
    throw UsageError(request.inputs.string() + ": holds " +
                     (raw ? "both z and latents" : "neither z nor latents") +
                     "; expected z, or latents = (z - shift) * scale in its place");
  }
  const Var given = leaf(request, in, raw ? "z" : "latents", r);
  const Var image = model->decode(raw ? given : model->unscaled(given));
  r.outputs = {{"image", image}, {"sample", image}};
  finish(request, in, r);
  return r;
}

}  // namespace parlo
