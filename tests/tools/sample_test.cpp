// `parlo sample` on diffusers folders: sizes, guidance, what a picture says of itself, and that a
// call which was killed is completed by the next one.
#include <nlohmann/json.hpp>
#include <random>

#include "rl/rewards/png.h"
#include "rl/rewards/png_text.h"
#include "rl/rewards/prompt.h"
#include "tests/tools/process.h"
#include "tests/tools/tiny.h"

using namespace parlo;
using namespace parlo::test;
namespace fs = std::filesystem;
using nlohmann::json;

namespace {

using Words = std::vector<std::string>;

Words sample(const std::string& base, const std::string& out, const Words& more) {
  Words args{"sample", "--base", base, "--out", out, "--threads", "1", "--text-tokens", "24"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

// The picture of "a red circle".
Image drawn(const std::string& base, const std::string& out, Words more) {
  for (const char* word : {"--prompt", "a red circle", "--steps", "4"}) more.push_back(word);
  const Outcome r = run_parlo(sample(base, out, more));
  INFO(r.output);
  REQUIRE(r.code == 0);
  return read_png(out + "/00000.png");
}

std::map<std::string, std::string> bytes_of(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& e : fs::directory_iterator(folder)) {
    out[e.path().filename().string()] = read_file(e.path());
  }
  return out;
}

const std::string kSd3 = golden("pipe_sd3"), kFlux = golden("pipe_flux");
const Words kSmall{"--height", "64", "--width", "48"};

Words with(Words a, const Words& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST_CASE("SD3: size, negative prompt, skipped layers, tiles") {
  const TemporaryFolder out;
  const Image plain = drawn(kSd3, out / "plain", {});
  CHECK(plain.width == 64);
  CHECK(plain.height == 64);
  const Words guided = with(kSmall, {"--guidance", "4.5"});
  const Image g = drawn(kSd3, out / "guided", guided);
  CHECK(g.width == 48);
  CHECK(g.height == 64);
  CHECK(drawn(kSd3, out / "negative", with(guided, {"--negative-prompt", "blurry"})) != g);
  const Words skip = with(guided, {"--skip-layers", "0,2", "--skip-stop", "0.6"});
  CHECK(drawn(kSd3, out / "skip", skip) != g);
  CHECK(drawn(kSd3, out / "skip2", with(skip, {"--skip-scale", "1"})) !=
        read_png(out / "skip/00000.png"));
  // No step lies between .2 and .25 of 4.
  CHECK(drawn(kSd3, out / "skip3",
              with(guided, {"--skip-layers", "0", "--skip-start", "0.2", "--skip-stop", "0.25"})) ==
        g);
  const Words large{"--height", "96", "--width", "96"};
  CHECK(drawn(kSd3, out / "large", large) !=
        drawn(kSd3, out / "tiles", with(large, {"--vae-tiling"})));
}

TEST_CASE("FLUX: --guidance is embedded, --true-cfg classifier-free") {
  const TemporaryFolder out;
  const Image plain = drawn(kFlux, out / "a", kSmall);
  CHECK(drawn(kFlux, out / "b", with(kSmall, {"--guidance", "3.5"})) == plain);
  CHECK(drawn(kFlux, out / "c", with(kSmall, {"--guidance", "1"})) != plain);
  const Image cfg = drawn(kFlux, out / "d", with(kSmall, {"--true-cfg", "3"}));
  CHECK(cfg != plain);
  CHECK(drawn(kFlux, out / "e", with(kSmall, {"--true-cfg", "3", "--negative-prompt", "blurry"})) !=
        cfg);
  const json j = json::parse(run_parlo({"inspect", out / "d/00000.png", "--json"}).output)[0];
  CHECK(j["texts"]["guidance"] == "3.5");
  CHECK(j["texts"]["true_cfg"] == "3");
}

TEST_CASE("a picture says what it was drawn with") {
  const TemporaryFolder out;
  const std::string prompt = "a sign that says \"caf\xc3\xa9\"";
  const Outcome r = run_parlo(
      sample(kSd3, out / "a",
             with(kSmall, {"--prompt", prompt, "--steps", "2", "--guidance", "4.5", "--seed", "9",
                           "--negative-prompt", "blurry", "--skip-layers", "0,2"})));
  INFO(r.output);
  REQUIRE(r.code == 0);
  const json j = json::parse(run_parlo({"inspect", out / "a/00000.png", "--json"}).output)[0];
  CHECK(j["width"] == 48);
  const json& texts = j["texts"];
  CHECK(texts["prompt"] == prompt);
  CHECK(texts["negative_prompt"] == "blurry");
  CHECK(texts["seed"] == "9");
  CHECK(texts["steps"] == "2");
  CHECK(texts["guidance"] == "4.5");
  CHECK(texts["skip_layers"] == "0,2");
  CHECK(texts["size"] == "48x64");
  CHECK(texts["model"] == kSd3);
  CHECK(contains(texts["software"].get<std::string>(), "parlo "));
  CHECK(contains(run_parlo({"inspect", out / "a/00000.png"}).output, "  seed: 9\n"));
  write_file(out / "broken.png", "no picture");
  check_refused({"inspect", out / "broken.png"}, 2, {"broken.png", "PNG"});
}

TEST_CASE("what a model cannot draw is refused, and nothing is written") {
  const TemporaryFolder out;
  const std::string to = out / "x";
  const auto refused = [&](const std::string& base, const Words& more, const Words& words) {
    check_refused(sample(base, to, with({"--prompt", "a", "--steps", "2"}, more)), 2, words);
  };
  refused(kSd3, {"--height", "40"}, {"height is 40", "multiple of 16"});
  refused(kSd3, {"--width", "112"}, {"width is 112", "at most 96"});
  refused(kFlux, {"--width", "56"}, {"width is 56", "multiple of 16"});
  refused(kSd3, {"--true-cfg", "2"}, {"--true-cfg", "use --guidance"});
  refused(kSd3, {"--guidance", "4.5", "--skip-layers", "3"}, {"layer 3", "0 .. 2"});
  refused(kSd3, {"--skip-layers", "1"}, {"classifier-free guidance, which is off"});
  refused(kFlux, {"--true-cfg", "2", "--skip-layers", "1"}, {"for SD3 models"});
  refused(kFlux, {"--negative-prompt", "blurry"}, {"give --true-cfg"});
  refused(kSd3, {"--guidance", "-1"}, {"--guidance -1"});
  refused(kSd3, {"--vae-bf16", "--device", "cpu"}, {"needs a GPU"});
  CHECK(!fs::exists(to));
}

TEST_CASE("a folder is completed, by the same settings alone") {
  const TemporaryFolder folder;
  write_tiny_pipeline(folder / "base");
  const std::string base = folder / "base", out = folder / "out";
  const Words some{"--prompt", "a red circle", "--prompt", "a blue square", "--count", "3"};
  const auto again = [&](const Words& more) {
    Words words = with(some, more);
    if (std::count(more.begin(), more.end(), "--steps") == 0) words = with(words, {"--steps", "2"});
    return sample(base, out, words);
  };
  REQUIRE(run_parlo(again({})).code == 0);
  const auto whole = bytes_of(out);
  CHECK(whole.size() == 9);  // six pictures, grid, prompts, settings
  fs::remove(out + "/00001.png");
  fs::remove(out + "/00004.png");
  fs::remove(out + "/grid.png");
  write_file(out + "/00000.png", whole.at("00005.png"));  // what is there is not drawn again
  const Outcome r = run_parlo(again({"--batch", "2"}));
  INFO(r.output);
  CHECK(r.code == 0);
  CHECK(contains(r.output, "2 of them drawn now"));
  CHECK(read_file(out + "/00000.png") == whole.at("00005.png"));
  for (const char* name : {"00001.png", "00004.png"}) {
    CHECK(read_file(fs::path(out) / name) == whole.at(name));
  }
  const auto before = bytes_of(out);
  check_refused(again({"--steps", "3"}), 2, {"other settings", "steps was 2 and is now 3"});
  check_refused(again({"--prompt", "more"}), 2, {"other prompts"});
  check_refused(again({"--negative-prompt", "x", "--guidance", "2"}), 2,
                {"negative_prompt was \"\" and is now \"x\""});
  CHECK((bytes_of(out) == before));
  fs::remove(out + "/sample.json");
  check_refused(again({}), 2, {"another origin"});
  write_file(out + "/sample.json", "[]");
  check_refused(again({}), 2, {"cannot be read"});
}

TEST_CASE("killed anywhere, the next call ends with the same bytes") {
  const TemporaryFolder folder;
  write_tiny_pipeline(folder / "base");
  const std::string base = folder / "base";
  const Words some{"--prompt", "a red circle", "--count", "60", "--steps", "4", "--batch", "3"};
  const auto start = std::chrono::steady_clock::now();
  REQUIRE(run_parlo(sample(base, folder / "whole", some)).code == 0);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  const auto whole = bytes_of(folder / "whole");
  std::mt19937 engine(std::random_device{}());
  std::uniform_real_distribution<double> delay(0.0, took.count() * 0.8);
  const std::string out = folder / "killed";
  int kills = 0;
  for (int tries = 0; tries < 40 && kills < 8; ++tries) {
    const Outcome r =
        run_parlo(sample(base, out, some), concat("timeout -s KILL ", delay(engine), " "));
    if (r.code == 0) fs::remove_all(out);  // it was faster
    kills += r.code != 0;
  }
  CHECK(kills == 8);
  REQUIRE(run_parlo(sample(base, out, some)).code == 0);
  const auto seen = bytes_of(out);
  CHECK(seen.size() == whole.size());
  for (const auto& [name, bytes] : seen) {
    CAPTURE(name);
    REQUIRE(whole.count(name) == 1);
    CHECK((bytes == whole.at(name)));
  }
}
