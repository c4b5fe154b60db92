// `parlo inspect` and `parlo doctor` through the binary.
#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tests/tools/process.h"

using namespace parlo;
using namespace parlo::test;
using nlohmann::json;

namespace {

json inspect(const std::string& path) {
  const Outcome r = run_parlo({"inspect", path, "--json"});
  INFO(r.output);
  REQUIRE(r.code == 0);
  return json::parse(r.output);
}

}  // namespace

TEST_CASE("a file: names, dtypes, shapes, bytes") {
  const json parts = inspect(golden("clip_text_b/inputs.safetensors"));
  REQUIRE(parts.size() == 1);
  CHECK(parts[0]["count"] == 3);
  CHECK(parts[0]["elements"] == 3 * 16 * 2 + 3 * 24);
  CHECK(parts[0]["bytes"] == 3 * 16 * 2 * 8 + 3 * 24 * 4);
  const json& mask = parts[0]["tensors"][0];
  CHECK(mask["name"] == "attention_mask");
  CHECK(mask["dtype"] == "i64");
  CHECK((mask["shape"] == json{3, 16}));
  const Outcome r = run_parlo({"inspect", golden("clip_text_b/inputs.safetensors")});
  CHECK(contains(r.output, "attention_mask"));
  CHECK(contains(r.output, "(3, 16)"));
}

TEST_CASE("a component's class, an adapter's rank, a pipeline's parts") {
  const json component = inspect(golden("sd3_a"));
  CHECK(component.size() == 3);  // the weights, inputs and outputs
  CHECK(component[0]["class"] == "SD3Transformer2DModel");

  const json adapter = inspect(golden("sd3_a_lora_pattern"));
  json found;
  for (const json& part : adapter) {
    if (part.contains("adapter")) found = part["adapter"];
  }
  CHECK(found["format"] == "peft");
  CHECK(found["rank"] == 4);
  CHECK(found["alpha"] == 6);
  CHECK(found["exceptions"].size() > 1);
  CHECK(found["targets"].size() == 8);
  CHECK(contains(run_parlo({"inspect", golden("sd3_a_lora")}).output, "rank 4, alpha 8, scale 2"));

  TemporaryFolder folder;
  std::filesystem::create_directory(folder / "transformer");
  const std::string q = "lora_unet_joint_blocks_0_x_block_attn_proj";
  const std::string file = folder / "transformer/model.safetensors";
  save_safetensors(file, {{q + ".lora_down.weight", Tensor::zeros({1, 2})},
                          {q + ".lora_up.weight", Tensor::zeros({4, 1})},
                          {q + ".alpha", Tensor::full({}, 3)}});
  const json kohya = inspect(folder.path())[0]["adapter"];
  CHECK(kohya["format"] == "kohya");
  CHECK(kohya["details"] == json::parse(R"([{"name": "transformer_blocks.0.attn.to_out.0",
    "rank": 1, "scale": 3.0, "weight": [4, 2]}])"));
  CHECK(contains(run_parlo({"inspect", file}).output, "attn.to_out.0: rank 1, scale 3, weight (4"));
  save_safetensors(file, {{"x.hada_w1_a", Tensor::zeros({1, 2})}});
  CHECK(contains(run_parlo({"inspect", file}).output, "cannot be read: "));
  CHECK(contains(inspect(file)[0]["adapter"]["error"].get<std::string>(), "LoHa"));
}

TEST_CASE("a transformer under its original names") {
  const json file = inspect(golden("single_file/sd3.safetensors"))[0];
  CHECK(file["class"] == "SD3Transformer2DModel");
  CHECK(file["layout"] == "original");
  CHECK(file["prefix"] == "model.diffusion_model.");
  CHECK(!inspect(golden("sd3_a"))[0].contains("layout"));
}

TEST_CASE("what cannot be inspected") {
  TemporaryFolder folder;
  check_refused({"inspect", "/nowhere"}, 2, {"/nowhere: no such file or folder"});
  check_refused({"inspect", folder.path()}, 2, {"holds no safetensors file"});
  write_file(folder / "cut.safetensors", "12345");
  check_refused({"inspect", folder / "cut.safetensors"}, 1, {"cut.safetensors"});
  check_refused({"inspect", folder.path()}, 1, {"cut.safetensors"});
}

TEST_CASE("doctor names the instruction sets and every reward") {
  const Outcome r = run_parlo({"doctor", "--json", "--threads", "1"});
  INFO(r.output);
  REQUIRE(r.code == 0);
  const json j = json::parse(r.output);
  CHECK(j["isa"][0] == "avx2");
  CHECK(j["threads"] == 1);
  CHECK(j["gemm_f32_gflops"] > 0);
  CHECK(j["memory_bytes"] > 100'000'000);
  CHECK(j["rewards"]["geneval"] == "on");
  CHECK(j["rewards"].size() == 7);
  CHECK(contains(run_parlo({"doctor", "--threads", "1"}).output, "reward     geneval: on"));
  check_refused({"doctor", "--device", "cuda"}, 2,
                {"--device cuda", "no CUDA backend", "--device cpu"});
}
