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

TEST_CASE("a folded checkpoint in shards: the same tensors, an index, no file of the old layout") {
  TemporaryFolder folder;
  const std::string base = folder / "base";
  std::filesystem::create_directories(base);
  for (const char* name : {"config.json", "diffusion_pytorch_model.safetensors"}) {
    std::filesystem::copy(golden(std::string("sd3_a/") + name), base + "/" + name);
  }
  merge({golden("sd3_a_lora"), "--fold", base, "--out", folder / "whole"});
  merge({golden("sd3_a_lora"), "--fold", base, "--out", folder / "shards", "--shard-size", "50KB"});
  const std::string name = "diffusion_pytorch_model";
  CHECK(!std::filesystem::exists(folder / ("shards/" + name + ".safetensors")));
  const SafeTensors whole = SafeTensors::open(folder / ("whole/" + name + ".safetensors"));
  const SafeTensors shards = SafeTensors::open_sharded(folder / "shards", name);
  CHECK(shards.names() == whole.names());
  CHECK(shards.files().size() > 3);
  size_t total = 0;
  for (const std::string& n : whole.names()) {
    CHECK(same_values(shards.get(n), whole.get(n)));
    total += whole.info(n).bytes;
  }
  for (const auto& file : shards.files()) {
    const SafeTensors one = SafeTensors::open(file);
    CHECK(one.metadata().at("format") == "pt");
    CHECK((std::filesystem::file_size(file) < 60'000 || one.size() == 1));
  }
  const json index =
      json::parse(read_file(folder / ("shards/" + name + ".safetensors.index.json")));
  CHECK(index["metadata"]["total_size"] == total);
  CHECK(index["weight_map"].size() == whole.size());
  const std::string count = std::to_string(100000 + shards.files().size()).substr(1);
  const std::string first = concat("shards/", name, "-00001-of-", count, ".safetensors");
  CHECK(std::filesystem::exists(folder / first));
  // Back into one file, folding nothing twice: the weights stay as they are at weight 0.
  merge({golden("sd3_a_lora"), "--weights", "0", "--fold", folder / "shards", "--out",
         folder / "joined", "--shard-size", "1GB"});
  const SafeTensors joined = SafeTensors::open(folder / ("joined/" + name + ".safetensors"));
  for (const std::string& n : whole.names()) CHECK(same_values(joined.get(n), whole.get(n)));
  CHECK(entries(folder / "joined") == 2);
}

TEST_CASE("one adapter at 1 and three copies at 1/3: every method gives it back") {
  TemporaryFolder folder;
  const AdapterFile before = read_adapter(adapter(0));
  int n = 0;
  for (const char* method : {"exact", "svd", "linear", "task-arithmetic", "ties", "dare-linear",
                             "dare-ties", "magnitude-prune", "factor-mean"}) {
    for (const bool one : {true, false}) {
      const std::string m = method, out = folder / std::to_string(n++);
      std::vector<std::string> args{adapter(0)};
      if (!one) args.insert(args.end(), {adapter(0), adapter(0)});
      args.insert(args.end(), {"--weights", one ? "1" : "0.333333333,0.333333333,0.333333334",
                               "--method", m, "--out", out});
      const bool cut =
          m != "exact" && m != "factor-mean" && m != "linear" && m != "task-arithmetic";
      if (cut) args.insert(args.end(), {"--rank", "4"});
      if (cut && m != "svd") args.insert(args.end(), {"--density", "1"});
      INFO(m, one);
      CHECK(merge(args)["relative_error"] < 1e-6);
      CHECK(relative_distance(read_adapter(out).modules, before.modules) < 1e-6);
    }
  }
}

TEST_CASE("methods that give no low rank: cut with a report, or folded dense") {
  TemporaryFolder folder;
  const std::vector<std::string> args{adapter(0), adapter(1), "--weights", "0.6,0.4",
                                      "--method", "ties",     "--density", "0.3"};
  auto low = args, high = args, folded = args;
  low.insert(low.end(), {"--rank", "2", "--out", folder / "low"});
  high.insert(high.end(), {"--rank", "64", "--out", folder / "high"});
  folded.insert(folded.end(), {"--fold", golden("sd3_a"), "--out", folder / "folded"});
  const json a = merge(low), b = merge(high), c = merge(folded);
  CHECK(a["discarded_energy"] > 0.05);
  CHECK(b["discarded_energy"] < 1e-6);
  CHECK(c["rank"].is_null());
  CHECK(c["relative_error"].is_null());
  // The update at full rank, folded from factors, is the dense one.
  merge({folder / "high", "--weights", "1", "--fold", golden("sd3_a"), "--out", folder / "again"});
  const std::string file = "/diffusion_pytorch_model.safetensors";
  const SafeTensors x = SafeTensors::open((folder / "folded") + file);
  const SafeTensors y = SafeTensors::open((folder / "again") + file);
  const SafeTensors base = SafeTensors::open(golden("sd3_a") + file);
  int changed = 0;
  for (const std::string& name : x.names()) {
    check_close(x.get(name), y.get(name), 1e-6);
    changed += !same_values(x.get(name), base.get(name));
  }
  CHECK(changed == 6);
}

TEST_CASE("PEFT's own merges, and adapters of other formats") {
  TemporaryFolder folder;
  const auto peft = [&](const std::string& name, std::vector<std::string> args) {
    args.insert(args.begin(), {golden("merges/adapter_0"), golden("merges/adapter_1"),
                               golden("merges/adapter_2"), "--like-peft"});
    args.insert(args.end(), {"--out", folder / name});
    merge(args);
    const AdapterModules modules = read_adapter(folder / name).modules;
    const WeightedAdapter one{&modules, 1};
    const SafeTensors expected = SafeTensors::open(golden("merges/" + name + ".safetensors"));
    for (const auto& [module, pair] : modules) {
      check_close(merged_delta({&one, 1}, module), expected.get("delta." + module), 2e-5);
    }
  };
  peft("ties", {"--method", "ties", "--weights", "1,0.8,0.6", "--density", "0.5"});
  peft("ties_svd",
       {"--method", "ties", "--weights", "1,0.8,-0.6", "--density", "0.4", "--rank", "4"});
  peft("linear", {"--method", "linear", "--weights", "0.7,0.5,-0.4"});
  peft("svd_2", {"--method", "svd", "--weights", "0.7,0.5,-0.4", "--rank", "2"});
  const std::string formats = golden("adapter_formats/sd3/");
  const json j = merge({formats + "plain", formats + "original/kohya.safetensors",
                        formats + "diffusers_metadata", "--out", folder / "mixed"});
  CHECK((j["formats"] == json{"peft", "kohya", "diffusers"}));
  CHECK(j["relative_error"] < 1e-6);
}

TEST_CASE("what cannot be merged leaves nothing behind") {
  TemporaryFolder folder;
  const std::string out = folder / "out";
  check_refused({"merge", "/nowhere", "--out", out}, 2, {"/nowhere does not exist"});
  const auto refused = [&](std::vector<std::string> args, const std::string& why) {
    args.insert(args.begin(), {"merge", adapter(0), "--out", out});
    check_refused(args, 2, {why});
  };
  refused({"--method", "ties"}, "needs --density");
  refused({"--method", "ties", "--density", "0.5"}, "needs --rank R to cut it, or --fold");
  refused({"--method", "ties", "--density", "1.5", "--rank", "2"}, "is not in (0, 1]");
  refused({"--method", "linear", "--density", "0.5"}, "--density belongs to ties");
  refused({"--method", "exact", "--lambda", "2"}, "--lambda does not go with");
  refused({"--method", "exact", "--like-peft"}, "--like-peft does not go with");
  refused({"--method", "linear", "--sign", "frequency"}, "--sign belongs to");
  refused({"--method", "mean"}, "--method");
  refused({"--shard-size", "1GB"}, "--shard-size belongs to --fold");
  refused({"--fold", golden("sd3_a"), "--shard-size", "much"}, "--shard-size");
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
