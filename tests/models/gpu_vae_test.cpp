// The image autoencoder on a GPU against diffusers, in f32 and in bf16.
#include "models/autoencoder_kl.h"
#include "tests/gpu_support.h"
#include "tests/models/golden.h"

namespace parlo::test {
namespace {

Var gpu_leaf(const GoldenCase& c, const std::string& name) {
  return Var(on_gpu(c.inputs.get(name)), true);
}

// grad_limit: what reaches the input has gone through every layer twice, rounded each time.
void check_encode(const AutoencoderKl& vae, const GoldenCase& c, double limit, double grad_limit) {
  const Var images = gpu_leaf(c, "sample");
  const Var latents = vae.scaled(vae.encode(images).mean);
  CHECK(latents.value().device() == kGpu);
  CHECK(latents.dtype() == DType::f32);
  check_parity("latents", latents.value(), c.outputs.get("latents"), 0, limit);
  backward(latents, on_gpu(c.inputs.get("grad_output")));
  check_parity("images", images.grad(), c.outputs.get("grad.sample"), 0, grad_limit);
}

void check_decode(const AutoencoderKl& vae, const GoldenCase& c, double limit, double grad_limit) {
  const Var latents = gpu_leaf(c, "latents");
  const Var sample = vae.decode(vae.unscaled(latents));
  CHECK(sample.dtype() == DType::f32);
  check_parity("sample", sample.value(), c.outputs.get("sample"), 0, limit);
  backward(sample, on_gpu(c.inputs.get("grad_output")));
  check_parity("latents", latents.grad(), c.outputs.get("grad.latents"), 0, grad_limit);
}

}  // namespace

TEST_CASE("gpu: latents, images and gradients are the reference's, whole and in tiles") {
  for (const std::string name : {"vae_a", "vae_b"}) {
    const auto vae = AutoencoderKl::load(golden(name));
    vae->params().to(kGpu);
    for (const std::string tiled : {"", "tiled_"}) {
      INFO(name, " ", tiled);
      vae->tiling = !tiled.empty();
      check_encode(*vae, GoldenCase(name + "/" + tiled + "encode"), kParity, kParity);
      check_decode(*vae, GoldenCase(name + "/" + tiled + "decode"), kParity, kParity);
    }
  }
}

TEST_CASE("gpu: in bf16 the autoencoder is the reference within its rounding") {
  const auto vae = AutoencoderKl::load(golden("vae_a"));
  vae->params().to(kGpu);
  vae->params().narrow_weights();
  vae->compute = DType::bf16;
  check_encode(*vae, GoldenCase("vae_a/encode"), kBf16Parity, 2 * kBf16Parity);
  check_decode(*vae, GoldenCase("vae_a/decode"), kBf16Parity, 2 * kBf16Parity);
}

TEST_CASE("gpu: a picture has the same bits alone and in a batch") {
  const auto vae = AutoencoderKl::load(golden("vae_a"));
  vae->params().to(kGpu);
  const NoGrad guard;
  const Var z(on_gpu(random_tensor({3, 16, 3, 4}, 1)));
  const Tensor together = vae->decode(z).value().to(Device{});
  const Tensor alone = vae->decode(slice(z, 0, 1, 2)).value().to(Device{});
  CHECK(same_bits(alone, together.slice(0, 1, 2)));
}

}  // namespace parlo::test
