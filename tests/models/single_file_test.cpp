// Transformers under the names of their original repositories: the same values as the diffusers
// folder of the same model (made by tests/golden/make_single_file.py, read back by diffusers).
#include "models/flux_transformer.h"
#include "models/load_flow_model.h"
#include "models/sd3_transformer.h"
#include "tensor/file.h"
#include "tests/support.h"

namespace parlo::test {
namespace {

namespace fs = std::filesystem;

// sd3.safetensors has a prefix and an autoencoder, flux.safetensors neither.
struct Case {
  std::string name, folder;
  fs::path file() const { return golden("single_file/" + name + ".safetensors"); }
  // With the pipeline's config.json for what shapes do not tell.
  TransformerFile open() const {
    return TransformerFile::open(file(), fs::path(folder) / "transformer" / "config.json");
  }
};
const Case kSd3{"sd3", golden("pipe_sd3")}, kFlux{"flux", golden("pipe_flux")};

void check_same(const Params& a, const Params& b) {
  const NamedTensors x = a.tensors(), y = b.tensors();
  REQUIRE(x.size() == y.size());
  for (size_t i = 0; i < x.size(); ++i) {
    INFO(x[i].first);
    CHECK(x[i].first == y[i].first);
    CHECK(same_values(x[i].second, y[i].second));
  }
}

TEST_CASE("original names give the diffusers folder's weights and configuration") {
  const auto sd3 = Sd3Transformer::load(kSd3.open());
  const auto sd3_folder = Sd3Transformer::load(fs::path(kSd3.folder) / "transformer");
  CHECK(sd3->config().to_json() == sd3_folder->config().to_json());
  check_same(sd3->params(), sd3_folder->params());
  const auto flux = FluxTransformer::load(kFlux.open());
  const auto flux_folder = FluxTransformer::load(fs::path(kFlux.folder) / "transformer");
  CHECK(flux->config().to_json() == flux_folder->config().to_json());
  check_same(flux->params(), flux_folder->params());
}

TEST_CASE("what shapes do not tell is that of the published models") {
  const TransformerFile alone = TransformerFile::open(kSd3.file());
  CHECK(alone.prefix == "model.diffusion_model.");
  CHECK(Sd3Config::of(alone).sample_size == 128);
  // Heads of 8 cannot have the published axes.
  CHECK(contains(message_of([] { FluxTransformer::load(kFlux.file()); }), "axes_dims_rope"));
}

// The tensors of a file, to be changed.
NamedTensors tensors_of(const fs::path& file) {
  const SafeTensors in = SafeTensors::open(file);
  NamedTensors out;
  for (const std::string& name : in.names()) out.emplace_back(name, in.get(name));
  return out;
}

Tensor* find(NamedTensors& tensors, const std::string& name) {
  for (auto& [n, t] : tensors) {
    if (n == name) return &t;
  }
  return nullptr;
}

TEST_CASE("a prefix, 16 bits, another file name in the transformer's folder") {
  const TemporaryFolder folder;
  NamedTensors tensors = tensors_of(kFlux.file());
  for (auto& [name, t] : tensors) {
    name = "model.diffusion_model." + name;
    // Mixed dtypes: norms and vectors stay f32.
    if (t.rank() == 2) t = t.to(DType::bf16);
  }
  save_safetensors(folder / "flux1-dev.safetensors", tensors);
  fs::copy(fs::path(kFlux.folder) / "transformer" / "config.json", folder.path());
  const auto expected = FluxTransformer::load(fs::path(kFlux.folder) / "transformer");
  for (DType matrices : {DType::f32, DType::bf16}) {
    const auto model = FluxTransformer::load(folder.path(), {{}, matrices});
    for (const auto& [name, t] : expected->params().tensors()) {
      INFO(name);
      const Tensor rounded = t.rank() == 2 ? t.to(DType::bf16) : t;
      CHECK(same_values(model->params().at(name).value(), rounded));
      CHECK(model->params().at(name).dtype() == (t.rank() == 2 ? matrices : DType::f32));
    }
  }
}

TEST_CASE("a pipeline from an all-in-one file and a folder decodes the same pictures") {
  const TemporaryFolder folder;
  // All but the transformer's and the autoencoder's weights.
  fs::copy(kSd3.folder, folder.path(), fs::copy_options::recursive);
  for (const char* part : {"transformer", "vae"}) {
    fs::remove(folder.path() / part / "diffusion_pytorch_model.safetensors");
  }
  const ModelFiles files(kSd3.file(), folder.path());
  CHECK(contains(files.used(),
                 "SD3Transformer2DModel in the original layout "
                 "(model.diffusion_model.*) and the autoencoder "
                 "(first_stage_model.*)"));
  const auto model = load_flow_model(files), expected = load_flow_model(kSd3.folder);
  CHECK(model->latent_shape() == expected->latent_shape());
  const Tensor x = random_tensor({1, 16, 8, 8}, 1);
  const NoGrad guard;
  const std::vector<std::string> prompts{"a cat"};
  const std::vector<double> sigma{0.7};
  const Condition condition = expected->encode(prompts);
  CHECK(same_values(model->encode(prompts).context, condition.context));
  CHECK(same_values(model->velocity(Var(x), sigma, condition).value(),
                    expected->velocity(Var(x), sigma, condition).value()));
  CHECK(same_values(model->decode(x), expected->decode(x)));
}

TEST_CASE("what does not fit is named as the file has it") {
  const TemporaryFolder folder;
  const std::string at = "model.diffusion_model.", file = folder / "x.safetensors";
  const auto refusal = [&](NamedTensors tensors) {
    save_safetensors(file, std::move(tensors));
    return message_of([&] { Sd3Transformer::load(file); });
  };
  NamedTensors tensors = tensors_of(kSd3.file());
  *find(tensors, at + "joint_blocks.1.x_block.attn.qkv.weight") = Tensor::zeros({47, 16});
  *find(tensors, at + "joint_blocks.2.x_block.mlp.fc1.bias") = Tensor::zeros({63});
  std::erase_if(tensors, [&](const auto& t) { return t.first == at + "final_layer.linear.bias"; });
  tensors.emplace_back(at + "joint_blocks.1.x_block.surplus", Tensor::zeros({1}));
  tensors.emplace_back("text_encoders.clip_l.x", Tensor::zeros({1}));  // not the transformer's
  const std::string message = refusal(tensors);
  CHECK(contains(message, "missing (1): proj_out.bias"));
  CHECK(contains(message, "unexpected (1): " + at + "joint_blocks.1.x_block.surplus;"));
  CHECK(contains(message, "wrong shape (4): "));
  CHECK(contains(message, at + "joint_blocks.1.x_block.attn.qkv.weight "
                               "(transformer_blocks.1.attn.to_v.weight) is (47, 16)"));
  CHECK(contains(message, at + "joint_blocks.2.x_block.mlp.fc1.bias"));

  tensors = tensors_of(kSd3.file());
  std::erase_if(tensors, [&](const auto& t) { return t.first == at + "context_embedder.weight"; });
  CHECK(contains(refusal(tensors), "no tensor " + at + "context_embedder.weight"));
  tensors = tensors_of(kSd3.file());
  tensors.emplace_back("joint_blocks.0.x_block.attn.qkv.weight", Tensor::zeros({1}));
  CHECK(contains(refusal(tensors), "two transformers"));
}

TEST_CASE("a file of another architecture is refused by name") {
  CHECK(contains(message_of([] { Sd3Transformer::load(kFlux.file()); }),
                 "FluxTransformer2DModel, expected SD3Transformer2DModel"));
  CHECK(contains(message_of([] { FluxTransformer::load(kSd3.file()); }),
                 "SD3Transformer2DModel, expected FluxTransformer2DModel"));
  CHECK(contains(message_of([] { FluxTransformer::load(golden("pipe_sd3/transformer")); }),
                 "_class_name is SD3Transformer2DModel, expected FluxTransformer2DModel"));
  const TemporaryFolder folder;
  save_safetensors(folder / "x.safetensors", {{"a", Tensor::zeros({1})}});
  CHECK(contains(message_of([&] { Sd3Transformer::load(folder / "x.safetensors"); }),
                 "no tensor with the original names of SD3"));
}

}  // namespace
}  // namespace parlo::test
