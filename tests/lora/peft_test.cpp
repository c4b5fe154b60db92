#include "lora/peft.h"

#include <cstring>
#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
using json = nlohmann::json;

namespace {

AdapterPair random_pair(int64_t out, int64_t in, int64_t rank, uint32_t seed, double scale = 2) {
  return {random_tensor({rank, in}, seed), random_tensor({out, rank}, seed + 1000), scale};
}

// A valid adapter on two modules; tests then break one thing.
AdapterFile small_adapter() {
  AdapterFile adapter;
  adapter.config.r = 4;
  adapter.config.lora_alpha = 8;
  adapter.config.target_modules.names = {"to_q", "ff.0"};
  adapter.config.base_model_name_or_path = "base";
  adapter.modules = {{"blocks.0.to_q", random_pair(6, 5, 4, 1)},
                     {"blocks.0.ff.0", random_pair(7, 6, 4, 2)}};
  return adapter;
}

void change_config(const std::string& folder, const std::string& key, const json& value) {
  const std::string path = folder + "/adapter_config.json";
  json config = json::parse(read_file(path));
  config[key] = value;
  write_file(path, config.dump());
}

std::string key_of(const std::string& module, const std::string& side) {
  return "base_model.model." + module + "." + side + ".weight";
}

}  // namespace

TEST_CASE("targets match at a dot, as a whole expression, or everywhere") {
  const TargetModules list{{"attn.to_q", "proj"}, ""};
  CHECK(list.matches("transformer_blocks.0.attn.to_q"));
  CHECK(list.matches("attn.to_q"));
  CHECK(list.matches("proj"));
  CHECK(!list.matches("transformer_blocks.0.attn2.to_q"));
  CHECK(!list.matches("x.yproj"));
  CHECK(!list.matches("proj.x"));
  const TargetModules regex{{}, ".*\\.[01]\\.to_(q|k)"};
  CHECK(regex.matches("b.0.to_q"));
  CHECK(!regex.matches("b.0.to_q.x"));
  CHECK(!regex.matches("b.2.to_q"));
  // Alternatives must match the whole name too.
  const TargetModules either{{}, "to_q|to_k"}, all{{}, "all-linear"}, none;
  CHECK(!either.matches("a.to_q"));
  CHECK(either.matches("to_k"));
  CHECK(all.matches("anything"));
  CHECK(!none.matches("anything"));
}

TEST_CASE("golden adapters: ranks and scales of every module") {
  const AdapterFile plain = read_adapter(golden("sd3_a_lora"));
  CHECK(plain.config.r == 4);
  CHECK(plain.modules.size() == 23);  // the last of 3 blocks has no to_add_out
  for (const auto& [module, pair] : plain.modules) {
    CHECK(pair.scale == 2);
    CHECK(!contains(module, "attn2"));
    CHECK(!pair.a.read_only());
  }
  const AdapterFile pattern = read_adapter(golden("sd3_a_lora_pattern"));
  const auto& modules = pattern.modules;
  CHECK(modules.at("transformer_blocks.0.attn.to_q").a.dim(0) == 2);
  CHECK(modules.at("transformer_blocks.0.attn.to_q").scale == 2.5);
  CHECK(modules.at("transformer_blocks.1.attn2.to_v").scale == 2);
  CHECK(modules.at("transformer_blocks.0.attn.to_k").scale == 3);
  CHECK(modules.at("transformer_blocks.0.attn.to_add_out").scale == 6);
  CHECK(modules.at("transformer_blocks.0.attn2.to_q").scale == 1.5);
  const AdapterFile rslora = read_adapter(golden("sd3_a_lora_rslora"));
  CHECK(rslora.modules.begin()->second.scale == doctest::Approx(5 / std::sqrt(3.0)));
}

TEST_CASE("golden adapters come back unchanged from a rewrite") {
  for (const char* name : {"sd3_a_lora", "sd3_a_lora_pattern", "sd3_a_lora_rslora"}) {
    TemporaryFolder folder;
    const AdapterFile adapter = read_adapter(golden(name));
    write_adapter(folder / "one", adapter);
    write_adapter(folder / "two", read_adapter(folder / "one"));
    INFO(name);
    for (const char* file : {"/adapter_model.safetensors", "/adapter_config.json"}) {
      CHECK(read_file((folder / "one") + file) == read_file((folder / "two") + file));
    }
    CHECK(read_file(folder / "one/adapter_model.safetensors") ==
          read_file(golden(std::string(name) + "/adapter_model.safetensors")));
    const json before = json::parse(read_file(golden(std::string(name) + "/adapter_config.json")));
    const json after = json::parse(read_file(folder / "one/adapter_config.json"));
    for (const auto& [key, value] : after.items()) {
      INFO(key);
      CHECK(before.at(key) == value);
    }
  }
}

TEST_CASE("describe_adapter finds a config for any ranks and scales") {
  AdapterModules modules = {{"b.0.to_q", random_pair(6, 5, 4, 1)},
                            {"b.1.to_q", random_pair(6, 5, 4, 2)},
                            {"b.0.to_k", random_pair(6, 5, 3, 3, 0.1)},
                            {"to_k", random_pair(6, 5, 2, 4, 1 / 3.0)},
                            {"other", random_pair(6, 5, 4, 5, -1)}};
  AdapterConfig like;
  like.target_modules.names = {"to_q"};
  for (bool rslora : {false, true}) {
    like.use_rslora = rslora;
    TemporaryFolder folder;
    write_adapter(folder.path(), describe_adapter(modules, like));
    const AdapterFile back = read_adapter(folder.path());
    CHECK(back.config.r == 4);
    REQUIRE(back.modules.size() == modules.size());
    for (const auto& [name, pair] : modules) {
      INFO(name);
      CHECK(back.modules.at(name).scale == doctest::Approx(pair.scale).epsilon(1e-12));
      CHECK(same_values(back.modules.at(name).b, pair.b));
    }
  }
  CHECK_THROWS_AS(describe_adapter({}, like), Error);
}

TEST_CASE("every offender is listed in one line") {
  TemporaryFolder folder;
  const std::string path = folder.path().string();
  AdapterFile adapter = small_adapter();
  NamedTensors tensors;
  for (const auto& [module, pair] : adapter.modules) {
    tensors.emplace_back(key_of(module, "lora_A"), pair.a);
    tensors.emplace_back(key_of(module, "lora_B"), pair.b);
  }
  write_adapter(path, adapter);
  CHECK(read_adapter(path).modules.size() == 2);
  tensors.emplace_back(key_of("blocks.1.to_q", "lora_A"), Tensor::zeros({4, 5}));
  tensors.emplace_back(key_of("blocks.2.to_q", "lora_A"), Tensor::zeros({3, 5}));
  tensors.emplace_back(key_of("blocks.2.to_q", "lora_B"), Tensor::zeros({6, 3}));
  tensors.emplace_back(key_of("blocks.3.to_q", "lora_A"), Tensor::zeros({4, 5, 1, 1}));
  tensors.emplace_back(key_of("blocks.3.to_q", "lora_B"), Tensor::zeros({6, 4, 1, 1}));
  tensors.emplace_back(key_of("blocks.0.to_k", "lora_A"), Tensor::full({4, 5}, NAN));
  tensors.emplace_back(key_of("blocks.0.to_k", "lora_B"), Tensor::zeros({6, 4}));
  tensors.emplace_back("base_model.model.x.lora_magnitude_vector", Tensor::zeros({6}));
  tensors.emplace_back("lora_unet_x.lora_down.weight", Tensor::zeros({6}));
  save_safetensors(folder / "adapter_model.safetensors", tensors);
  change_config(path, "use_dora", true);
  change_config(path, "some_new_field", json{{"a", 1}});
  change_config(path, "another", nullptr);
  change_config(path, "bias", "all");
  change_config(path, "init_lora_weights", "pissa");
  const std::string message = message_of([&] { read_adapter(path); });
  INFO(message);
  for (const char* part :
       {"blocks.1.to_q has no lora_B", "blocks.2.to_q has lora_A (3, 5)", "gives rank 4",
        "blocks.3.to_q has lora_A (4, 5, 1, 1)", "blocks.0.to_k is not one of target_modules",
        "lora_A.weight holds values that are not finite",
        "DoRA (lora_magnitude_vector) is not supported", "unknown key lora_unet_x.lora_down.weight",
        "use_dora = true", "some_new_field", "bias = \"all\"", "pissa"}) {
    INFO(part);
    CHECK(contains(message, part));
  }
  CHECK(!contains(message, "another"));
  CHECK(!contains(message, "\n"));
}

TEST_CASE("broken configs are named") {
  TemporaryFolder folder;
  const std::string path = folder.path().string();
  const auto message = [&](const std::string& key, const json& value) {
    write_adapter(path, small_adapter());
    change_config(path, key, value);
    return message_of([&] { read_adapter(path); });
  };
  CHECK(contains(message("r", 0), "r is 0, expected a rank from 1"));
  CHECK(contains(message("r", nullptr), "r is null"));
  CHECK(contains(message("lora_alpha", "8"), "lora_alpha is \"8\""));
  CHECK(contains(message("target_modules", nullptr), "target_modules is null"));
  CHECK(contains(message("target_modules", "(unclosed"), "bad regular expression"));
  CHECK(contains(message("rank_pattern", json{{"to_q", 1.5}}), "rank_pattern is"));
  CHECK(contains(message("rank_pattern", json{{"to_q", 2}}), "gives rank 2"));
  CHECK(contains(message("peft_type", "LOHA"), "peft_type"));
  CHECK(contains(message("exclude_modules", json{"to_q"}), "not one of target_modules"));
  write_file(folder / "adapter_config.json", "{");
  CHECK(contains(message_of([&] { read_adapter(path); }), "adapter_config.json"));
  CHECK(contains(message_of([&] { read_adapter(folder / "none"); }), "expected an adapter folder"));
}

TEST_CASE("nothing is written when tensors and config disagree") {
  TemporaryFolder folder;
  AdapterFile adapter = small_adapter();
  adapter.modules.begin()->second.scale = 3;
  CHECK(contains(message_of([&] { write_adapter(folder / "a", adapter); }), "has scale 3"));
  CHECK(!std::filesystem::exists(folder / "a"));
}

TEST_CASE("an adapter that does not fit the base") {
  const AdapterFile adapter = small_adapter();
  CHECK(message_of([&] {
          check_adapter_fits(adapter, {{"blocks.0.to_q", {6, 5}}, {"blocks.0.ff.0", {7, 6}}});
        }).empty());
  const std::string message = message_of([&] {
    check_adapter_fits(adapter, {{"blocks.0.to_q", {6, 4}}});
  });
  CHECK(contains(message, "no linear blocks.0.ff.0"));
  CHECK(contains(message, "blocks.0.to_q changes a weight of (6, 5), the base has (6, 4)"));
}
