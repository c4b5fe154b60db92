// `parlo forward` against the reference libraries' outputs and gradients, through the binary and
// its files, and what it says to bad input.
#include "tests/models/golden.h"
#include "tests/tools/process.h"

using namespace parlo;
using namespace parlo::test;

namespace {

struct Case {
  std::string component, checkpoint, name;
  bool adapter = false;
};

const std::vector<Case> kCases{{"sd3", "sd3_a", "sd3_a"},
                               {"sd3", "sd3_b", "sd3_b"},
                               {"sd3", "sd3_c", "sd3_c"},
                               {"sd3", "sd3_a", "sd3_a_lora", true},
                               {"sd3", "sd3_a", "sd3_a_lora_pattern", true},
                               {"sd3", "sd3_a", "sd3_a_lora_rslora", true},
                               {"flux", "flux_a", "flux_a"},
                               {"flux", "flux_b", "flux_b"},
                               {"flux", "flux_a", "flux_a_lora", true},
                               {"clip_text", "clip_text_a", "clip_text_a"},
                               {"clip_text_with_projection", "clip_text_b", "clip_text_b"},
                               {"clip_text_with_projection", "clip_text_c", "clip_text_c"},
                               {"clip_vision", "clip_vision_a", "clip_vision_a"},
                               {"clip", "clip_model_a", "clip_model_a"},
                               {"t5_encoder", "t5_a", "t5_a"},
                               {"t5_encoder", "t5_b", "t5_b"}};

std::vector<std::string> command(const Case& c, const std::string& inputs,
                                 const std::string& outputs) {
  std::vector<std::string> args{"forward",      "--component",        c.component,
                                "--checkpoint", golden(c.checkpoint), "--inputs",
                                inputs,         "--outputs",          outputs};
  if (c.adapter) {
    args.push_back("--adapter");
    args.push_back(golden(c.name));
  }
  return args;
}

std::string inputs_of(const Case& c) {
  return golden(c.name + "/inputs.safetensors");
}

}  // namespace

TEST_CASE("every output and gradient of every fixture") {
  TemporaryFolder folder;
  for (const Case& c : kCases) {
    CAPTURE(c.name);
    const std::string out = folder / (c.name + ".safetensors");
    std::vector<std::string> args = command(c, inputs_of(c), out);
    args.push_back("--grads");
    const Outcome r = run_parlo(args);
    INFO(r.output);
    REQUIRE(r.code == 0);
    const SafeTensors ours = SafeTensors::open(out);
    const SafeTensors theirs = SafeTensors::open(golden(c.name + "/outputs.safetensors"));
    for (const std::string& name : theirs.names()) {
      REQUIRE(ours.contains(name));
      check_parity(name, ours.get(name), theirs.get(name));
    }
    // The fixtures leave out the gradients of positions.
    const size_t positions = ours.contains("grad.img_ids") ? 2 : 0;
    CHECK(ours.size() == theirs.size() + positions);
  }
}

TEST_CASE("without --grads: the outputs alone, the same bits") {
  TemporaryFolder folder;
  const Case c = kCases[0];
  REQUIRE(run_parlo(command(c, inputs_of(c), folder / "plain")).code == 0);
  std::vector<std::string> args = command(c, inputs_of(c), folder / "grads");
  args.push_back("--grads");
  REQUIRE(run_parlo(args).code == 0);
  const SafeTensors plain = SafeTensors::open(folder / "plain");
  CHECK(plain.names() == std::vector<std::string>{"sample"});
  CHECK(same_bits(plain.get("sample"), SafeTensors::open(folder / "grads").get("sample")));
}

TEST_CASE("other dtypes of inputs, and bf16 weights") {
  TemporaryFolder folder;
  const Case c = kCases[0];
  const SafeTensors given = SafeTensors::open(inputs_of(c));
  NamedTensors wide;
  for (const std::string& name : given.names()) {
    wide.emplace_back(name, given.get(name).to(DType::f64));
  }
  save_safetensors(folder / "wide", wide);
  REQUIRE(run_parlo(command(c, folder / "wide", folder / "from_wide")).code == 0);
  REQUIRE(run_parlo(command(c, inputs_of(c), folder / "f32")).code == 0);
  const Tensor f32 = SafeTensors::open(folder / "f32").get("sample");
  CHECK(same_bits(SafeTensors::open(folder / "from_wide").get("sample"), f32));

  std::vector<std::string> args = command(c, inputs_of(c), folder / "bf16");
  args.insert(args.end(), {"--dtype", "bf16", "--grads"});
  const Outcome r = run_parlo(args);
  INFO(r.output);
  REQUIRE(r.code == 0);
  const double off = max_relative_error(SafeTensors::open(folder / "bf16").get("sample"), f32);
  CHECK(off > 1e-4);  // the weights were rounded
  CHECK(off < 5e-2);

  const Case text = kCases[9];
  const Tensor ids = SafeTensors::open(inputs_of(text)).get("input_ids");
  save_safetensors(folder / "i32", {{"input_ids", ids.to(DType::i32)}});
  REQUIRE(run_parlo(command(text, folder / "i32", folder / "text")).code == 0);
  check_parity("pooler_output", SafeTensors::open(folder / "text").get("pooler_output"),
               SafeTensors::open(golden("clip_text_a/outputs.safetensors")).get("pooler_output"));
}

TEST_CASE("a transformer's file with the original names") {
  const TemporaryFolder folder;
  // flux.safetensors is pipe_flux/transformer; its config.json tells the axes, which shapes do not.
  std::filesystem::copy(golden("single_file/flux.safetensors"), folder.path());
  std::filesystem::copy(golden("pipe_flux/transformer/config.json"), folder.path());
  const int64_t tokens = 6, text = 3;
  save_safetensors(folder / "in.safetensors",
                   {{"hidden_states", random_tensor({1, tokens, 64}, 1)},
                    {"encoder_hidden_states", random_tensor({1, text, 36}, 2)},
                    {"pooled_projections", random_tensor({1, 16}, 3)},
                    {"timestep", Tensor::full({1}, 0.5)},
                    {"guidance", Tensor::full({1}, 3.5)},
                    {"img_ids", random_tensor({tokens, 3}, 4)},
                    {"txt_ids", Tensor::zeros({text, 3})}});
  std::vector<Tensor> samples;
  for (const std::string& place : {folder / "flux.safetensors", golden("pipe_flux/transformer")}) {
    const Outcome r =
        run_parlo({"forward", "--component", "flux", "--checkpoint", place, "--inputs",
                   folder / "in.safetensors", "--outputs", folder / "out.safetensors"});
    INFO(r.output);
    REQUIRE(r.code == 0);
    samples.push_back(SafeTensors::open(folder / "out.safetensors").get("sample").clone());
  }
  CHECK(same_values(samples[0], samples[1]));
  const Outcome r =
      run_parlo({"forward", "--component", "sd3", "--checkpoint", folder / "flux.safetensors",
                 "--inputs", folder / "in.safetensors", "--outputs", folder / "no.safetensors"});
  CHECK(r.code == 1);
  CHECK(contains(r.output, "FluxTransformer2DModel, expected SD3Transformer2DModel"));
  CHECK(!std::filesystem::exists(folder / "no.safetensors"));
}

TEST_CASE("a text tower saved without its prefix") {
  TemporaryFolder folder;
  const Case c = kCases[9];
  const SafeTensors weights = SafeTensors::open(golden(c.checkpoint + "/model.safetensors"));
  NamedTensors bare;
  for (const std::string& name : weights.names()) {
    REQUIRE(name.starts_with("text_model."));
    bare.emplace_back(name.substr(11), weights.get(name));
  }
  std::filesystem::create_directory(folder / "bare");
  save_safetensors(folder / "bare/model.safetensors", bare);
  std::filesystem::copy(golden(c.checkpoint + "/config.json"), folder / "bare/config.json");
  std::vector<std::string> args = command(c, inputs_of(c), folder / "out");
  args[4] = folder / "bare";
  const Outcome r = run_parlo(args);
  INFO(r.output);
  REQUIRE(r.code == 0);
  check_parity("pooler_output", SafeTensors::open(folder / "out").get("pooler_output"),
               SafeTensors::open(golden(c.name + "/outputs.safetensors")).get("pooler_output"));
}

TEST_CASE("bad inputs are listed in one line and nothing is written") {
  TemporaryFolder folder;
  const Case c = kCases[0];
  const SafeTensors given = SafeTensors::open(inputs_of(c));
  const auto refused = [&](const NamedTensors& tensors, const Case& what, bool grads,
                           const std::vector<std::string>& words) {
    save_safetensors(folder / "in", tensors);
    std::vector<std::string> args = command(what, folder / "in", folder / "out");
    if (grads) args.push_back("--grads");
    check_refused(args, 2, words);
    CHECK(entries(folder.path()) == 1);
  };
  const auto with = [&](const std::string& name, const Tensor& value) {
    NamedTensors out;
    for (const std::string& n : given.names()) {
      if (n != name) out.emplace_back(n, given.get(n));
    }
    if (value) out.emplace_back(name, value);
    return out;
  };
  refused({{"hidden_states", Tensor::zeros({2, 3, 16, 12})}, {"latents", Tensor::zeros({1})}}, c,
          true,
          {"hidden_states has shape (2, 3, 16, 12), expected 4 in axis 1", "timestep is missing",
           "encoder_hidden_states is missing", "pooled_projections is missing",
           "grad_output is missing", "latents is unknown", "Expected: hidden_states",
           "Got: hidden_states f32"});
  refused(with("timestep", Tensor::zeros({3})), c, false, {"B = 3, another input has 2"});
  refused(with("hidden_states", Tensor::zeros({2, 4, 15, 12})), c, false,
          {"H = 15", "H a multiple of 2"});
  refused(with("hidden_states", Tensor::zeros({2, 4, 0, 12})), c, false, {"H = 0"});
  refused(with("hidden_states", Tensor::zeros({2, 4, 4000, 12})), c, false, {"H = 4000"});
  refused(with("timestep", Tensor::zeros({2, 1})), c, false, {"timestep has shape (2, 1)"});
  refused(with("pooled_projections", Tensor::zeros({2, 20}, DType::i64)), c, false,
          {"pooled_projections has dtype i64"});
  refused(with("grad_output", Tensor::zeros({2, 4})), c, true, {"grad_output is f32 (2, 4)"});
  const Case text = kCases[9];
  refused({{"input_ids", Tensor::full({1, 5}, 99, DType::i64)}}, text, false,
          {"input_ids holds 99, expected 0..98"});
  refused({{"input_ids", Tensor::zeros({1, 17}, DType::i64)}}, text, false, {"T = 17", "T <= 16"});
  refused({{"input_ids", Tensor::zeros({1, 5})}}, text, false, {"input_ids has dtype f32"});
}

TEST_CASE("bad flags") {
  TemporaryFolder folder;
  const Case c = kCases[0];
  const auto replaced = [&](size_t at, const std::string& value) {
    std::vector<std::string> args = command(c, inputs_of(c), folder / "out");
    args[at] = value;
    return args;
  };
  check_refused(replaced(2, "sd4"), 2, {"unknown component 'sd4'", "sd3", "clip_vision"});
  check_refused(replaced(4, "/nowhere"), 2, {"--checkpoint /nowhere does not exist"});
  check_refused(replaced(6, "/nowhere"), 2, {"--inputs /nowhere does not exist"});
  check_refused(replaced(8, "/nowhere/out"), 2, {"--outputs", "/nowhere does not exist"});
  check_refused(replaced(4, golden("clip_text_a")), 1, {"clip_text_a"});
  std::vector<std::string> args = command(c, inputs_of(c), folder / "out");
  args.insert(args.end(), {"--adapter", golden("clip_text_a")});
  check_refused(args, 1, {"adapter_config.json"});
  args = command(kCases[2], inputs_of(kCases[2]), folder / "out");
  args.insert(args.end(), {"--adapter", golden("sd3_a_lora")});
  check_refused(args, 1, {"does not fit the base", "transformer_blocks.1.attn.to_add_out"});
  args = command(kCases[9], inputs_of(kCases[9]), folder / "out");
  args[2] = "clip_text_with_projection";
  check_refused(args, 2, {"has no text_projection.weight"});
  CHECK(entries(folder.path()) == 0);
}
