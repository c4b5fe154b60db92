// `parlo forward` of the autoencoder's halves against diffusers, through the binary.
#include "models/autoencoder_kl.h"
#include "tests/models/golden.h"
#include "tests/tools/process.h"

using namespace parlo;
using namespace parlo::test;

namespace {

std::vector<std::string> command(const std::string& component, const std::string& checkpoint,
                                 const std::string& inputs, const std::string& outputs) {
  return {"forward",  "--component", component,   "--checkpoint", golden(checkpoint),
          "--inputs", inputs,        "--outputs", outputs,        "--grads"};
}

SafeTensors run(const std::vector<std::string>& args) {
  const Outcome r = run_parlo(args);
  INFO(r.output);
  REQUIRE(r.code == 0);
  return SafeTensors::open(args[8]);
}

}  // namespace

TEST_CASE("latents, moments, images and gradients are the reference's") {
  TemporaryFolder folder;
  for (const std::string vae : {"vae_a", "vae_b"}) {
    CAPTURE(vae);
    const GoldenCase e(vae + "/encode"), d(vae + "/decode");
    const SafeTensors encoded = run(
        command("vae_encode", vae, golden(vae + "/encode/inputs.safetensors"), folder / "latents"));
    for (const std::string& name : e.outputs.names()) {
      check_parity(name, encoded.get(name), e.outputs.get(name));
    }
    CHECK(encoded.size() == e.outputs.size());

    const SafeTensors decoded = run(
        command("vae_decode", vae, golden(vae + "/decode/inputs.safetensors"), folder / "image"));
    for (const std::string name : {"sample", "grad.latents"}) {
      check_parity(name, decoded.get(name), d.outputs.get(name));
    }
    CHECK(same_bits(decoded.get("image"), decoded.get("sample")));

    // The reference's own argument of decode: latents / scale + shift.
    const AutoencoderKlConfig config = AutoencoderKlConfig::from_json(golden(vae + "/config.json"));
    const Var z =
        affine(Var(d.inputs.get("latents")), 1 / config.scaling_factor, config.shift_factor);
    save_safetensors(folder / "z",
                     {{"z", z.value()}, {"grad_output", d.inputs.get("grad_output")}});
    const SafeTensors raw = run(command("vae_decode", vae, folder / "z", folder / "raw"));
    check_parity("image", raw.get("image"), d.outputs.get("sample"));
    check_parity("grad.z", affine(Var(raw.get("grad.z")), 1 / config.scaling_factor).value(),
                 d.outputs.get("grad.latents"));
  }
}

TEST_CASE("what is not an input of a half is named") {
  TemporaryFolder folder;
  const auto refused = [&](const std::string& component, const NamedTensors& tensors,
                           const std::string& part) {
    save_safetensors(folder / "in", tensors);
    const Outcome r = run_parlo(command(component, "vae_a", folder / "in", folder / "out"));
    INFO(r.output);
    CHECK(r.code == 2);
    CHECK(contains(r.output, part));
    CHECK(!std::filesystem::exists(folder / "out"));
  };
  const Tensor z = Tensor::zeros({1, 16, 2, 2}), image = Tensor::zeros({1, 3, 8, 8});
  refused("vae_decode", {{"grad_output", image}}, "neither z nor latents");
  refused("vae_decode", {{"z", z}, {"latents", z}, {"grad_output", image}}, "both z and latents");
  refused("vae_decode", {{"z", image}, {"grad_output", image}}, "expected 16 in axis 1");
  refused("vae_encode", {{"z", z}, {"grad_output", z}}, "sample is missing; z is unknown");
  refused("vae_encode", {{"sample", image}, {"grad_output", image}}, "shape of latents");
}
