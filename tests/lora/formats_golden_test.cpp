// Adapters as PEFT, diffusers, kohya and ComfyUI write them against the dense changes that the
// reference libraries make of them (tests/golden/make_adapters.py).
#include "lora/formats.h"
#include "lora/merge.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

const char* const kKinds[] = {"sd3", "flux"};

std::string fixture(const std::string& kind, const std::string& name) {
  return golden("adapter_formats/" + kind + "/" + name);
}

// Every module's s B A is factor * the expected one, and no module is more or less.
void check_deltas(const std::string& place, const std::string& expected_file, double factor = 1) {
  INFO(place);
  const AdapterModules modules = open_adapter(place).file.modules;
  const std::vector<WeightedAdapter> one{{&modules, 1}};
  const SafeTensors expected = SafeTensors::open(expected_file);
  CHECK(modules.size() == expected.size());
  for (const auto& [module, pair] : modules) {
    INFO(module);
    REQUIRE(expected.contains("delta." + module));
    const Tensor delta = expected.get("delta." + module).to(DType::f64).clone();
    for (double& x : delta.span<double>()) x *= factor;
    check_close(merged_delta(one, module, DType::f64), delta, 1e-6);
  }
}

}  // namespace

TEST_CASE("PEFT folders and diffusers' files") {
  for (const std::string kind : kKinds) {
    for (const char* variant : {"plain", "rslora", "pattern"}) {
      const std::string expected = fixture(kind, std::string(variant) + "/expected.safetensors");
      check_deltas(fixture(kind, variant), expected);
      const std::string header = variant == std::string("plain") ? "metadata" : variant;
      check_deltas(fixture(kind, "diffusers_" + header), expected);
    }
    const std::string plain = fixture(kind, "plain/expected.safetensors");
    check_deltas(fixture(kind, "diffusers_alpha"), plain);
    // Nothing says that alpha is twice the rank.
    check_deltas(fixture(kind, "diffusers_bare"), plain, 0.5);
    check_deltas(fixture(kind, "diffusers_old/pytorch_lora_weights.safetensors"), plain, 0.5);
  }
}

TEST_CASE("original names, and all formats made of them") {
  TemporaryFolder folder;
  for (const std::string kind : kKinds) {
    const std::string expected = fixture(kind, "original/expected.safetensors");
    for (const char* name : {"kohya", "comfy_down_up", "comfy_a_b"}) {
      const std::string file = fixture(kind, concat("original/", name, ".safetensors"));
      check_deltas(file, expected);
      const OpenedAdapter opened = open_adapter(file);
      CHECK(opened.format ==
            (name == std::string("kohya") ? AdapterFormat::kohya : AdapterFormat::original));
      for (AdapterFormat to : kAdapterFormats) {
        const std::string ending = to == AdapterFormat::peft ? "" : ".safetensors";
        const std::string out = folder / concat(kind, name, format_name(to), ending);
        write_adapter_as(to, out, opened.file,
                         kind == "sd3" ? ModelFamily::sd3 : ModelFamily::flux);
        check_deltas(out, expected);
      }
    }
    // The original file comes back tensor by tensor, alphas that were left out included.
    const SafeTensors first = SafeTensors::open(fixture(kind, "original/kohya.safetensors"));
    const SafeTensors again = SafeTensors::open(folder / (kind + "kohyakohya.safetensors"));
    for (const std::string& name : first.names()) {
      INFO(name);
      CHECK(same_values(again.get(name), first.get(name)));
    }
  }
}

TEST_CASE("adapters of other kinds are refused by name") {
  const auto message = [](const std::string& name) {
    const std::string text = message_of([&] { open_adapter(golden("adapter_formats/" + name)); });
    CHECK(!contains(text, "\n"));
    return text;
  };
  for (const std::string kind : kKinds) {
    CHECK(contains(message(kind + "/dora"), "DoRA"));
    CHECK(contains(message(kind + "/dora/dora_scale.safetensors"), "DoRA (dora_scale) is not"));
  }
  CHECK(contains(message("refused/loha.safetensors"), "LoHa"));
  CHECK(contains(message("refused/loha_peft"), "LOHA"));
  CHECK(contains(message("refused/lokr.safetensors"), "LoKr"));
  CHECK(contains(message("refused/locon_mid.safetensors"), "LoCon"));
  CHECK(contains(message("refused/no_up.safetensors"), "has no lora_B"));
  CHECK(contains(message("refused/unknown_module.safetensors"),
                 "unknown key lora_unet_joint_blocks_99_x_block_attn_qkv"));
}
