// A pipeline with an autoencoder: its folder, its latents and pictures, a training step on them.
#include "rl/trainer.h"
#include "tests/rl/tiny_pipeline.h"

namespace parlo {
namespace {

using namespace test;

constexpr int64_t kSide = 8;  // of latents

AutoencoderKlConfig vae_config(int64_t channels) {
  AutoencoderKlConfig c = tiny_vae();
  c.latent_channels = channels;
  return c;
}

void write_vae(const std::filesystem::path& folder, int64_t channels) {
  AutoencoderKl vae(vae_config(channels));
  vae.params().initialise(RandomKey(3));
  vae.save(folder / "vae");
}

void write_pipeline(const std::filesystem::path& folder) {
  write_tiny_pipeline(folder, kSide);
  Sd3Config c = tiny_parts(kSide).transformer->config();
  c.in_channels = c.out_channels = 4;
  Sd3Transformer transformer(c);
  transformer.params().initialise(RandomKey(2));
  transformer.save(folder / "transformer");
  write_vae(folder, 4);
}

TEST_CASE("a folder with vae/ has latents that become pictures of its size") {
  const TemporaryFolder folder;
  write_pipeline(folder.path());
  const auto pipeline = Sd3Pipeline::load(folder.path());
  REQUIRE(pipeline->vae() != nullptr);
  CHECK((pipeline->latent_shape() == Shape{4, kSide, kSide}));
  const Tensor latents = random_tensor({3, 4, kSide, kSide}, 1);
  const Tensor pictures = pipeline->decode(latents);
  CHECK((pictures.shape() == Shape{3, 3, 4 * kSide, 4 * kSide}));
  const NoGrad guard;
  const AutoencoderKl& vae = *pipeline->vae();
  const Var z = affine(Var(latents), 1 / 1.5, 0.1);  // tiny_vae's scale and shift
  check_close(pictures, affine(vae.decode(z), 0.5, 0.5).value());
  CHECK(same_bits(pictures.slice(0, 1, 2), pipeline->decode(latents.slice(0, 1, 2))));
}

TEST_CASE("a step of training draws, decodes and judges latents") {
  const TemporaryFolder folder;
  write_pipeline(folder.path());
  const auto pipeline = Sd3Pipeline::load(folder.path());
  WatchedModel model(*pipeline);
  LoraAdapter adapter = LoraAdapter::create(model.linears(), tiny_lora(), RandomKey(1));
  const auto before = snapshot(adapter);
  GrpoConfig config;
  config.prompts_per_step = 1;
  config.group_size = 4;
  GrpoTrainer trainer(model, adapter, {{colour_reward(0), 1.0}}, tiny_prompts(2), config,
                      {1, 1, "latents"});
  trainer.step();
  REQUIRE(!model.decoded.empty());
  CHECK((model.decoded[0].shape() == Shape{4, 4, kSide, kSide}));
  CHECK(!same_bits(before, snapshot(adapter)));
}

TEST_CASE("an autoencoder that does not fit is refused, each fault named") {
  const TemporaryFolder folder;
  write_pipeline(folder.path());
  write_vae(folder.path(), 5);
  const auto message = [&] { return message_of([&] { Sd3Pipeline::load(folder.path()); }); };
  CHECK(contains(message(), "in_channels = 4, the autoencoder latent_channels = 5"));
  AutoencoderKl vae(vae_config(4));
  vae.params().initialise(RandomKey(3));
  NamedTensors tensors = vae.params().tensors();
  const std::string first = tensors[0].first, last = tensors.back().first;
  tensors.erase(tensors.begin());
  tensors.pop_back();
  tensors.emplace_back("encoder.surplus", Tensor::zeros({1}));
  write_vae(folder.path(), 4);
  save_safetensors(folder / "vae/diffusion_pytorch_model.safetensors", tensors);
  const std::string m = message();
  INFO(m);
  for (const std::string& part : {first, last, std::string("encoder.surplus")}) {
    CHECK(contains(m, part));
  }
  CHECK(!contains(m, "\n"));
}

}  // namespace
}  // namespace parlo
