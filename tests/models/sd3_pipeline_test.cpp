// SD3 pipelines: diffusers' own runs of a whole tiny folder, guidance, and the size of pictures.
#include "models/sd3_pipeline.h"

#include <nlohmann/json.hpp>

#include "models/load_flow_model.h"
#include "tensor/file.h"
#include "tests/models/golden.h"

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

std::unique_ptr<Sd3Pipeline> golden_pipeline(const PipelineSettings& settings = {}) {
  return Sd3Pipeline::load(golden("pipe_sd3"), {}, DType::f32, short_text(), settings);
}

nlohmann::json case_of(const std::string& name) {
  return nlohmann::json::parse(read_file(golden("pipe_sd3_cases/cases.json")))["cases"][name];
}

// The four Euler steps of a fixture, from its own first latents; the last ones.
Tensor check_run(const std::string& name, const SkipLayers& skip = {}) {
  const NoGrad guard;
  const SafeTensors inputs = SafeTensors::open(golden("pipe_sd3_cases/inputs.safetensors"));
  const SafeTensors expected = SafeTensors::open(golden("pipe_sd3_cases/" + name + ".safetensors"));
  const nlohmann::json options = case_of(name);
  const auto model = golden_pipeline();
  const double guidance = options["guidance_scale"].get<double>();
  validate(skip, *model, guidance);
  const Condition yes = model->encode(options["prompt"].get<Strings>());
  Condition no;
  if (guidance != 1) no = model->encode(options["negative_prompt"].get<Strings>());
  const std::vector<double> sigmas = expected.get("sigmas").to_vector();
  const auto steps = static_cast<int64_t>(sigmas.size()) - 1;
  Var x(inputs.get("latents"));
  for (int64_t i = 0; i < steps; ++i) {
    const auto at = static_cast<size_t>(i);
    const Var v = guided_velocity(*model, x, sigmas[at], yes, &no, guidance, false,
                                  skip.active(i, steps) ? &skip : nullptr);
    x = add(x, affine(v, sigmas[at + 1] - sigmas[at]));
    check_parity(concat(name, " step ", i), x.value(), expected.get(concat("latents.", i)), 0,
                 3e-5);
  }
  return x.value();
}

TEST_CASE("an SD3 folder runs as diffusers runs it") {
  const Tensor image = golden_pipeline()->decode(check_run("cfg"));
  const SafeTensors expected = SafeTensors::open(golden("pipe_sd3_cases/cfg.safetensors"));
  // Of the fixture the image is cut to [0, 1].
  const std::vector<double> ours = image.to_vector(), theirs = expected.get("image").to_vector();
  REQUIRE(ours.size() == theirs.size());
  double off = 0;
  for (size_t i = 0; i < ours.size(); ++i) {
    off = std::max(off, std::abs(std::clamp(ours[i], 0.0, 1.0) - theirs[i]));
  }
  CHECK(off < 1e-4);
  check_run("no_guidance");
}

TEST_CASE("skip-layer guidance is diffusers'") {
  const nlohmann::json o = case_of("skip_layers");
  check_run("skip_layers", {o["skip_guidance_layers"].get<std::vector<int64_t>>(),
                            o["skip_layer_guidance_scale"].get<double>(),
                            o["skip_layer_guidance_start"].get<double>(),
                            o["skip_layer_guidance_stop"].get<double>()});
  const SkipLayers published{{7, 8, 9}};
  std::vector<int64_t> active;
  for (int64_t i = 0; i < 40; ++i) {
    if (published.active(i, 40)) active.push_back(i);
  }
  CHECK((active == std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7}));
}

TEST_CASE("what skip-layer guidance cannot do is refused") {
  const auto model = golden_pipeline();
  const auto message = [&](const SkipLayers& skip, double guidance) {
    return message_of([&] { validate(skip, *model, guidance); });
  };
  CHECK(message({}, 1) == "");
  CHECK(message({{0, 2}}, 4.5) == "");
  CHECK(contains(message({{3}}, 4.5), "layer 3 to skip, expected 0 .. 2"));
  CHECK(contains(message({{-1}}, 4.5), "layer -1"));
  CHECK(contains(message({{1}}, 1), "classifier-free guidance, which is off"));
  CHECK(contains(message({{1}, 2.8, 0.5, 0.2}, 4.5), "0.5 to 0.2"));
  CHECK(contains(message({{1}, std::nan("")}, 4.5), "finite"));
  const auto flux = load_flow_model(golden("pipe_flux"), {}, DType::f32, short_text());
  CHECK(contains(message_of([&] { validate({{1}}, *flux, 4.5); }), "for SD3 models"));
}

TEST_CASE("pictures have the size that is asked for") {
  CHECK((golden_pipeline()->latent_shape() == Shape{16, 8, 8}));
  const auto model = golden_pipeline({.height = 96, .width = 32});
  CHECK((model->latent_shape() == Shape{16, 12, 4}));
  const Tensor x = random_tensor({1, 16, 12, 4}, 1);
  const Condition text = model->encode(Strings{"red"});
  CHECK((model->velocity(Var(x), std::vector<double>{1.0}, text).shape() == x.shape()));
  CHECK((model->decode(x).shape() == Shape{1, 3, 96, 32}));
  const auto message = [&](int64_t height, int64_t width) {
    return message_of([&] { golden_pipeline({.height = height, .width = width}); });
  };
  CHECK(contains(message(40, 64), "height is 40 pixels, expected a multiple of 16"));
  CHECK(contains(message(64, 112), "width is 112 pixels, expected at most 96"));
  CHECK(contains(message(-16, 64), "height is -16"));
}

TEST_CASE("the autoencoder's settings reach it") {
  const auto model = golden_pipeline({.height = 96, .width = 96, .vae_tiling = true});
  const Tensor x = random_tensor({1, 16, 12, 12}, 1);
  CHECK(!same_bits(model->decode(x), golden_pipeline()->decode(x)));  // tiles of 64 pixels
  CHECK(contains(message_of([&] { golden_pipeline({.vae_bf16 = true}); }), "needs a GPU"));
}

}  // namespace
}  // namespace parlo
