// `parlo init`: folders of presets, whole or without weights.
#include <set>

#include "models/clip_tokenizer.h"
#include "models/load_flow_model.h"
#include "models/t5_tokenizer.h"
#include "tensor/safetensors.h"
#include "tests/tools/train_bench.h"
#include "tools/model_preset.h"

using namespace parlo;
using namespace parlo::test;

namespace {

std::map<std::string, std::string> contents(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& e : fs::recursive_directory_iterator(folder)) {
    if (e.is_regular_file()) out[fs::relative(e.path(), folder).string()] = read_file(e.path());
  }
  return out;
}

}  // namespace

TEST_CASE("tiny presets are folders that draw; a seed is a model") {
  const TemporaryFolder folder;
  for (const std::string preset : {"sd3_tiny", "flux_tiny"}) {
    const std::string base = folder / preset;
    const auto init = [&](const std::string& out, std::vector<std::string> more) {
      std::vector<std::string> args{"init", "--preset", preset, "--out", out};
      args.insert(args.end(), more.begin(), more.end());
      const Outcome r = parlo_run(args);
      INFO(r.err);
      CHECK(r.code == 0);
      return contents(out);
    };
    const auto sharded = init(base, {"--seed", "3", "--shard-size", "1MB"});
    CHECK(sharded.count("transformer/diffusion_pytorch_model.safetensors.index.json") == 1);
    CHECK(sharded.count("model_index.json") == 1);
    for (const auto& [name, bytes] : sharded) CHECK(bytes.size() < 1100000);
    const Outcome drawn = parlo_run({"sample", "--base", base, "--prompt", "a red circle",
                                     "--steps", "2", "--out", base + "-pictures"});
    INFO(drawn.err);
    CHECK(drawn.code == 0);

    const auto again = init(base + "-again", {"--seed", "3", "--shard-size", "1MB"});
    CHECK(again == sharded);
    const auto whole = init(base + "-whole", {"--seed", "3"});
    const auto other = init(base + "-other", {"--seed", "4"});
    CHECK(whole.count("transformer/diffusion_pytorch_model.safetensors") == 1);
    CHECK(whole != other);
    const auto half = init(base + "-half", {"--dtype", "f16"});
    const SafeTensors file =
        SafeTensors::open_sharded(base + "-half/transformer", "diffusion_pytorch_model");
    for (const std::string& name : file.names()) CHECK(file.info(name).dtype == DType::f16);

    // Shards hold what the one file holds.
    const SafeTensors parts =
        SafeTensors::open_sharded(base + "/transformer", "diffusion_pytorch_model");
    const SafeTensors one =
        SafeTensors::open_sharded(base + "-whole/transformer", "diffusion_pytorch_model");
    REQUIRE(parts.names() == one.names());
    CHECK(parts.files().size() > 1);
    for (const std::string& name : one.names()) CHECK(same_bits(parts.get(name), one.get(name)));
  }
}

TEST_CASE("published models have their published numbers of parameters") {
  const auto count = [](const char* preset, const std::string& folder) {
    const ModelPreset p = model_preset(preset);
    for (const PresetComponent& c : p.components) {
      if (c.folder == folder) return c.params->count();
    }
    return int64_t{0};
  };
  CHECK(count("sd3_medium", "transformer") == 2243171520 + 226492416);  // and its position table
  CHECK(count("sd3_medium", "text_encoder_2") == 694659840);
  CHECK(count("sd3_medium", "text_encoder_3") == 4762310656);
  CHECK(count("sd3_medium", "vae") == 83819683);
  CHECK(count("flux_dev", "transformer") == 11901408320);
  CHECK(count("flux_dev", "text_encoder") == 123060480);
  CHECK(count("flux_dev", "text_encoder_2") == 4762310656);
  CHECK(count("flux_dev", "vae") == 83819683);
}

TEST_CASE("every tokenizer's ids are within its encoder's table") {
  const TemporaryFolder folder;
  const std::string text = "a sign that says \"Wow, caf\xC3\xA9 42~!\"";
  for (const std::string& preset : model_preset_names()) {
    const std::string base = folder / preset;
    REQUIRE(parlo_run({"init", "--preset", preset, "--out", base, "--no-weights"}).code == 0);
    for (const char* number : {"", "_2", "_3"}) {
      const fs::path at = base + "/tokenizer" + number;
      if (!fs::exists(at)) continue;
      INFO(at.string());
      const auto config = json::parse(read_file(base + "/text_encoder" + number + "/config.json"));
      const bool t5 = fs::exists(at / "tokenizer.json");
      const std::vector<int64_t> ids =
          t5 ? T5Tokenizer::load(at).encode(text, 64) : ClipTokenizer::load(at).encode(text, 77);
      for (const int64_t id : ids) CHECK((id >= 0 && id < config.at("vocab_size")));
      CHECK(std::set<int64_t>(ids.begin(), ids.end()).size() > 8);
    }
  }
  // What it knows comes back.
  const T5Tokenizer t5 = T5Tokenizer::load(folder / "flux_dev/tokenizer_2");
  CHECK(t5.decode(t5.tokenize("a red circle that says \"Qq{}9\"")) ==
        "a red circle that says \"Qq{}9\"");
  CHECK(t5.tokenize("a red circle").size() == 3);
}

TEST_CASE("init refuses in one line and leaves nothing") {
  const TemporaryFolder folder;
  const auto refused = [&](const std::vector<std::string>& args, const std::string& word) {
    const Outcome r = parlo_run(args);
    INFO(r.err);
    CHECK(r.code == 2);
    CHECK(contains(r.err, word));
    CHECK(std::count(r.err.begin(), r.err.end(), '\n') == 1);
  };
  const std::string out = folder / "new", full = folder / "full";
  refused({"init", "--preset", "sd4", "--out", out}, "expected one of flux_dev, flux_tiny, sd3");
  refused({"init", "--preset", "sd3_tiny", "--out", out, "--dtype", "f8"}, "--dtype");
  refused({"init", "--preset", "sd3_tiny", "--out", out, "--shard-size", "big"}, "--shard-size");
  refused({"init", "--out", out}, "--preset");
  make_folders(full);
  write_file(fs::path(full) / "mine.txt", "mine");
  refused({"init", "--preset", "sd3_tiny", "--out", full}, "is not empty");
  CHECK(read_file(fs::path(full) / "mine.txt") == "mine");
  CHECK(!fs::exists(out));
  CHECK(leftovers(fs::path(full).parent_path()).empty());
}

TEST_CASE("a disk that is too small is named before anything is written") {
  const TemporaryFolder folder;
  make_folders(folder / "small");
  Limits limits;
  limits.tmpfs = folder / "small";
  const Outcome r =
      parlo_run({"init", "--preset", "sd3_tiny", "--out", folder / "small/new"}, -1, limits);
  if (r.code == kNoMount) return;  // not allowed here
  INFO(r.err);
  CHECK(r.code == 1);
  CHECK(contains(r.err, "its disk has 64.0 KiB free"));
}
