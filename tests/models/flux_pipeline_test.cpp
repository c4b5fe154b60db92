// FLUX pipelines: diffusers' own run of a whole tiny folder, and the built-in world's kind.
#include "models/flux_pipeline.h"

#include <nlohmann/json.hpp>

#include "models/load_flow_model.h"
#include "tensor/file.h"
#include "tests/models/golden.h"
#include "tests/models/tiny_flux.h"

namespace parlo {
namespace {

using namespace test;
using Strings = std::vector<std::string>;

TextSettings short_text() {
  TextSettings s;
  s.t5_tokens = 24;
  s.warn = [](const std::string&) {};
  return s;
}

std::unique_ptr<FluxPipeline> golden_pipeline(double guidance = 3.5, bool reference_bf16 = false) {
  return FluxPipeline::load(
      golden("pipe_flux"), {}, DType::f32, short_text(),
      {.height = 64, .width = 48, .guidance = guidance, .reference_bf16 = reference_bf16});
}

nlohmann::json golden_cases() {
  return nlohmann::json::parse(read_file(golden("pipe_flux_cases/cases.json")));
}

TEST_CASE("text is what diffusers conditions on, the same bits in any batch") {
  const SafeTensors expected =
      SafeTensors::open(golden("pipe_flux_cases/conditioning.safetensors"));
  const auto model = golden_pipeline();
  const auto prompts = golden_cases()["prompts"].get<Strings>();
  const Condition text = model->encode(prompts);
  check_parity("context", text.context, expected.get("prompt_embeds"));
  check_parity("pooled", text.pooled, expected.get("pooled"));
  const Condition alone = golden_pipeline()->encode(Strings{prompts[4]});
  CHECK(same_bits(text.rows(4, 5).context, alone.context));
  CHECK(same_bits(text.rows(4, 5).pooled, alone.pooled));
}

// Four Euler steps of diffusers, whose latents stay packed; guidance beside the embedded one.
Tensor check_run(const FluxPipeline& model, const std::string& name, const Condition& yes,
                 const Condition* no, double guidance) {
  const SafeTensors inputs = SafeTensors::open(golden("pipe_flux_cases/inputs.safetensors"));
  const SafeTensors expected =
      SafeTensors::open(golden("pipe_flux_cases/" + name + ".safetensors"));
  const std::vector<double> sigmas = model.sigmas(4), theirs = expected.get("sigmas").to_vector();
  DOCTEST_REQUIRE(sigmas.size() == theirs.size());
  Var x(inputs.get("latents"));
  check_parity("packed", patchify(x, 2, false).value(), inputs.get("packed"), 0, 0);
  for (size_t i = 0; i + 1 < sigmas.size(); ++i) {
    CHECK(std::abs(sigmas[i] - theirs[i]) < 3e-7);
    // The levels as the scheduler rounds them.
    const Var v = guided_velocity(model, x, theirs[i], yes, no, guidance);
    x = add(x, affine(v, theirs[i + 1] - theirs[i]));
    check_parity(concat("step ", i), patchify(x, 2, false).value(),
                 expected.get(concat("latents.", i)), 0, 3e-5);
  }
  return x.value();
}

TEST_CASE("a FLUX folder runs as diffusers runs it") {
  const NoGrad guard;
  const nlohmann::json options = golden_cases()["cases"]["guidance"];
  const auto model = golden_pipeline(options["guidance_scale"].get<double>());
  CHECK((model->latent_shape() == Shape{16, 8, 6}));
  const Condition text = model->encode(options["prompt"].get<Strings>());
  const Tensor image = model->decode(check_run(*model, "guidance", text, nullptr, 1.0));
  const SafeTensors expected = SafeTensors::open(golden("pipe_flux_cases/guidance.safetensors"));
  const std::vector<double> ours = image.to_vector(), theirs = expected.get("image").to_vector();
  DOCTEST_REQUIRE(ours.size() == theirs.size());
  double off = 0;
  for (size_t i = 0; i < ours.size(); ++i) {  // the fixture's is cut to [0, 1]
    off = std::max(off, std::abs(std::clamp(ours[i], 0.0, 1.0) - theirs[i]));
  }
  CHECK(off < 1e-4);
}

TEST_CASE("classifier-free guidance beside the embedded one") {
  const NoGrad guard;
  const nlohmann::json options = golden_cases()["cases"]["true_cfg"];
  const auto model = golden_pipeline(options["guidance_scale"].get<double>());
  const Condition yes = model->encode(options["prompt"].get<Strings>());
  const Condition no = model->encode(options["negative_prompt"].get<Strings>());
  check_run(*model, "true_cfg", yes, &no, options["true_cfg_scale"].get<double>());
}

TEST_CASE("times and guidance, exact and as the reference's bf16 rounds them") {
  const auto features = [&](double time, double guidance) {
    std::vector<Var> parts;
    for (double t : {time, guidance}) {
      parts.push_back(timestep_features(Var(Tensor::full({1}, t))));
    }
    return cat(parts, 1).value();
  };
  const std::vector<double> sigma{0.75};
  CHECK(same_bits(golden_pipeline()->noise_features(sigma), features(750, 3500)));
  CHECK(same_bits(golden_pipeline(3.5, true)->noise_features(sigma), features(752, 3504)));
}

TEST_CASE("without T5 and VAE: CLIP's states, and pixels as latents") {
  const TemporaryFolder folder;
  write_pixel_flux(folder.path(), {"red", "blue", "circle"});
  const std::unique_ptr<FlowModel> model = load_flow_model(folder.path());
  CHECK((model->latent_shape() == Shape{3, 32, 32}));
  CHECK(model->sigmas(4) == linear_sigmas(4));
  const Condition text = model->encode(Strings{"red"});
  CHECK((text.context.shape() == Shape{1, 8, 32}));
  const Tensor x = random_tensor({1, 3, 32, 32}, 1);
  CHECK((model->velocity(Var(x), std::vector<double>{1.0}, text).shape() == x.shape()));
  CHECK(same_bits(model->decode(x), affine(Var(x), 0.5, 0.5).value()));
}

TEST_CASE("what does not fit together is refused in one line") {
  const auto message = [&](const std::filesystem::path& folder, int64_t height) {
    return message_of([&] {
      FluxPipeline::load(folder, {}, DType::f32, short_text(), {.height = height, .width = 48});
    });
  };
  CHECK(contains(message(golden("pipe_flux"), 60), "multiple of 16"));
  const auto model = golden_pipeline();
  const Condition text = model->encode(Strings{"red"});
  const Condition short_one{text.context.slice(1, 0, 3), text.pooled};
  CHECK(contains(message_of([&] {
                   const Var x(random_tensor({1, 16, 8, 6}, 1));
                   model->velocity(x, std::vector<double>{1.0}, short_one);
                 }),
                 "encoder_hidden_states"));

  const TemporaryFolder folder;
  const std::filesystem::path copy = folder.path() / "model";
  std::filesystem::copy(golden("pipe_flux"), copy, std::filesystem::copy_options::recursive);
  std::filesystem::remove_all(copy / "vae");
  CHECK(contains(message(copy, 64), "square patches"));
  std::filesystem::remove_all(copy / "text_encoder_2");
  CHECK(contains(message(copy, 64), "text_encoder_2"));
  CHECK(contains(message(copy / "none", 64), "no such folder"));
}

TEST_CASE("a transformer of another class is named") {
  const TemporaryFolder folder;
  CHECK(contains(message_of([&] { load_flow_model(folder.path()); }), "transformer/config.json"));
  make_folders(folder.path() / "transformer");
  write_file(folder.path() / "transformer" / "config.json", R"({"_class_name": "UNet"})");
  save_safetensors(folder / "transformer/diffusion_pytorch_model.safetensors",
                   {{"conv_in.bias", Tensor::zeros({4})}});
  CHECK(contains(message_of([&] { load_flow_model(folder.path()); }), "UNet"));
}

}  // namespace
}  // namespace parlo
