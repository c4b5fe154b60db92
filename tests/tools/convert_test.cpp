// `parlo convert` through the binary.
#include <nlohmann/json.hpp>

#include "lora/formats.h"
#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tests/tools/process.h"

using namespace parlo;
using namespace parlo::test;

namespace {

void convert(const std::string& from, const std::string& to, const std::string& out) {
  const Outcome r = run_parlo({"convert", from, "--to", to, "--out", out});
  INFO(r.output);
  REQUIRE(r.code == 0);
}

}  // namespace

TEST_CASE("a PEFT folder through every format and back: equal factors and scales") {
  for (const char* name : {"sd3_a_lora", "sd3_a_lora_pattern", "sd3_a_lora_rslora"}) {
    TemporaryFolder folder;
    INFO(name);
    convert(golden(name), "diffusers", folder / "d");
    convert(folder / "d", "kohya", folder / "k.safetensors");
    convert(folder / "k.safetensors", "original", folder / "o.safetensors");
    convert(folder / "o.safetensors", "diffusers", folder / "d.safetensors");
    convert(folder / "d.safetensors", "peft", folder / "p");
    const AdapterFile before = read_adapter(golden(name)), after = read_adapter(folder / "p");
    REQUIRE(before.modules.size() == after.modules.size());
    for (const auto& [module, pair] : before.modules) {
      const AdapterPair& other = after.modules.at(module);
      CHECK(same_values(other.a, pair.a));
      // Scales of one fused linear may differ (sd3_a_lora_pattern): then B takes up the ratio.
      Tensor ours = pair.b.to(DType::f64).clone(), theirs = other.b.to(DType::f64).clone();
      for (double& x : ours.span<double>()) x *= pair.scale;
      for (double& x : theirs.span<double>()) x *= other.scale;
      check_close(theirs, ours, 1e-7);
    }
    // The config travels in the header: nothing is lost between PEFT and diffusers.
    convert(folder / "d", "peft", folder / "q");
    CHECK(read_file(folder / "q/adapter_model.safetensors") ==
          read_file(golden(std::string(name) + "/adapter_model.safetensors")));
    write_adapter(folder / "r", before);
    CHECK(read_file(folder / "q/adapter_config.json") ==
          read_file(folder / "r/adapter_config.json"));
  }
}

TEST_CASE("the report says what was read and whose names were written") {
  TemporaryFolder folder;
  const Outcome r = run_parlo({"convert", golden("sd3_a_lora"), "--to", "kohya", "--out",
                               folder / "k.safetensors", "--family", "flux", "--json"});
  const auto j = nlohmann::json::parse(r.output);
  CHECK(j["from"] == "peft");
  CHECK(j["family"] == "flux");
  CHECK(j["modules"] == 23);
  CHECK(SafeTensors::open(folder / "k.safetensors")
            .contains("lora_unet_double_blocks_0_txt_attn_qkv.alpha"));
}

TEST_CASE("what cannot be converted leaves nothing behind") {
  TemporaryFolder folder;
  const std::string out = folder / "out", file = folder / "out.safetensors";
  const std::string in = golden("sd3_a_lora");
  check_refused({"convert", "/nowhere", "--to", "peft", "--out", out}, 2, {"does not exist"});
  check_refused({"convert", in, "--to", "lycoris", "--out", out}, 2, {"--to"});
  check_refused({"convert", in, "--to", "kohya", "--out", out}, 2, {"ends in .safetensors"});
  check_refused({"convert", in, "--to", "peft", "--out", file}, 2, {"peft is a folder"});
  check_refused({"convert", in, "--to", "peft", "--out", golden("sd3_a")}, 2, {"not empty"});
  check_refused({"convert", golden("sd3_a"), "--to", "peft", "--out", out}, 1, {"sd3_a"});
  check_refused({"convert", golden("sd3_a/inputs.safetensors"), "--to", "peft", "--out", out}, 1,
                {"unknown key encoder_hidden_states"});
  check_refused({"convert", golden("sd3_a_lora_rslora"), "--to", "kohya", "--family",
                 "hunyuan-video", "--out", "/proc/x.safetensors"},
                0, {"/proc"});
  CHECK(entries(folder.path()) == 0);
  CHECK(contains(run_parlo({"convert", "--help"}).output, "--family"));
}
