// `parlo merge` through the binary: the written adapters and checkpoints against the exact sum.
#include <nlohmann/json.hpp>

#include "lora/merge.h"
#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tests/tools/process.h"

using namespace parlo;
using namespace parlo::test;
using nlohmann::json;

namespace {

std::string adapter(int i) {
  return golden("lora_merge/adapter_" + std::to_string(i));
}

json merge(std::vector<std::string> args) {
  args.insert(args.begin(), "merge");
  args.push_back("--json");
  const Outcome r = run_parlo(args);
  INFO(r.output);
  REQUIRE(r.code == 0);
  return json::parse(r.output);
}

// Largest error of the deltas, relative, against the fixture's exact sum.
double error_of(const std::string& folder, const std::string& fixture) {
  const AdapterFile merged = read_adapter(folder);
  const std::vector<WeightedAdapter> one{{&merged.modules, 1.0}};
  const SafeTensors expected = SafeTensors::open(golden("lora_merge/" + fixture));
  double worst = 0;
  for (const std::string& name : expected.names()) {
    if (!name.starts_with("delta.")) continue;
    const std::string module = name.substr(6, name.size() - 6 - 4);
    const Tensor delta = merged_delta(one, module, DType::f64);
    worst = std::max(worst, max_relative_error(delta, expected.get(name)));
  }
  return worst;
}

}  // namespace

TEST_CASE("the exact merge is the weighted sum, ranks add") {
  TemporaryFolder folder;
  const json j = merge({adapter(0), adapter(1), adapter(2), adapter(3), "--weights",
                        "0.5,0.3,0.2,-0.4", "--out", folder / "merged"});
  CHECK(error_of(folder / "merged", "expected_mixed.safetensors") < 1e-6);
  CHECK(j["rank"] == 14);
  CHECK(j["relative_error"] < 1e-6);
  CHECK(j["cosines"].size() == 4);
  CHECK(j["norms"].size() == 4);
}

TEST_CASE("svd at full rank is exact, below it reports what it lost") {
  TemporaryFolder folder;
  const std::vector<std::string> three{adapter(0),    adapter(1), adapter(2), "--weights",
                                       "0.5,0.3,0.2", "--method", "svd"};
  auto full = three, low = three;
  full.insert(full.end(), {"--rank", "12", "--out", folder / "full"});
  low.insert(low.end(), {"--rank", "4", "--out", folder / "low"});
  CHECK(merge(full)["discarded_energy"] < 1e-10);
  CHECK(error_of(folder / "full", "expected.safetensors") < 1e-6);
  const json j = merge(low);
  CHECK(j["rank"] == 4);
  CHECK(j["discarded_energy"] > 0.01);
  const double lost = j["discarded_energy"], error = j["relative_error"];
  CHECK(error * error == doctest::Approx(lost).epsilon(1e-3));
}

TEST_CASE("the factor mean is far from the sum, and says so") {
  TemporaryFolder folder;
  const json j = merge({adapter(0), adapter(1), adapter(2), "--weights", "0.5,0.3,0.2", "--method",
                        "factor-mean", "--out", folder / "mean"});
  CHECK(j["relative_error"] > 0.1);
  const double error = j["relative_error"], reported = j["factor_mean_error"];
  CHECK(error == doctest::Approx(reported).epsilon(1e-4));
  CHECK(j["rank"] == 4);
  const Outcome r = run_parlo({"merge", adapter(0), adapter(1), "--out", folder / "plain"});
  CHECK(r.code == 0);
  CHECK(contains(r.output, "weight 0.5"));
  CHECK(contains(r.output, "factor mean of the same adapters: relative error"));
}

TEST_CASE("folding into a component and into a pipeline") {
  TemporaryFolder folder;
  const std::string base = folder / "base";
  std::filesystem::create_directories(base + "/transformer");
  for (const char* name : {"config.json", "diffusion_pytorch_model.safetensors"}) {
    std::filesystem::copy(golden(std::string("sd3_a/") + name), base + "/transformer/" + name);
  }
  write_file(base + "/model_index.json", "{}");
  merge({golden("sd3_a_lora"), "--fold", base, "--out", folder / "folded"});
  CHECK(read_file(folder / "folded/model_index.json") == "{}");
  CHECK(read_file(folder / "folded/transformer/config.json") ==
        read_file(golden("sd3_a/config.json")));
  const SafeTensors ours =
      SafeTensors::open(folder / "folded/transformer/diffusion_pytorch_model.safetensors");
  const SafeTensors before = SafeTensors::open(golden("sd3_a/diffusion_pytorch_model.safetensors"));
  const SafeTensors theirs = SafeTensors::open(golden("sd3_a_lora/merged.safetensors"));
  for (const std::string& name : theirs.names()) {
    check_close(ours.get(name), theirs.get(name), 1e-6);
    CHECK(!same_values(ours.get(name), before.get(name)));
  }
  CHECK(ours.names() == before.names());
  CHECK(same_values(ours.get("proj_out.weight"), before.get("proj_out.weight")));
  merge({golden("sd3_a_lora"), "--fold", base + "/transformer", "--out", folder / "alone/"});
  CHECK(read_file(folder / "alone/diffusion_pytorch_model.safetensors") ==
        read_file(folder / "folded/transformer/diffusion_pytorch_model.safetensors"));
  CHECK(entries(folder.path()) == 3);
}

TEST_CASE("what cannot be merged leaves nothing behind") {
  TemporaryFolder folder;
  const std::string out = folder / "out";
  check_refused({"merge", "/nowhere", "--out", out}, 2, {"/nowhere does not exist"});
  check_refused({"merge", adapter(0), adapter(1), "--weights", "1", "--out", out}, 2,
                {"1 weights for 2 adapters"});
  check_refused({"merge", adapter(0), "--weights", "nan", "--out", out}, 2,
                {"not a finite number"});
  check_refused({"merge", adapter(0), "--method", "svd", "--out", out}, 2, {"needs --rank"});
  check_refused({"merge", adapter(0), "--rank", "2", "--out", out}, 2, {"belongs to --method svd"});
  check_refused({"merge", adapter(0), adapter(3), "--method", "factor-mean", "--out", out}, 1,
                {"rank"});
  check_refused({"merge", adapter(0), "--fold", golden("clip_text_a"), "--out", out}, 1,
                {"does not fit the base", "transformer_blocks.0.attn.to_q"});
  check_refused({"merge", adapter(0), "--fold", golden("lora_merge"), "--out", out}, 1,
                {"does not fit the base"});
  check_refused({"merge", adapter(0), "--fold", golden("tokenizer"), "--out", out}, 2,
                {"holds no safetensors file"});
  check_refused({"merge", adapter(0), "--out", golden("sd3_a")}, 2, {"is not empty"});
  check_refused({"merge", adapter(0), "--out", "/proc/merged"}, 0, {"/proc/merged"});
  CHECK(entries(folder.path()) == 0);
}
