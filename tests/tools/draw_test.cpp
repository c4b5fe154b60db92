// `parlo sample` and `parlo eval` through the binary, on a tiny random model.
#include <nlohmann/json.hpp>

#include "rl/rewards/png.h"
#include "rl/rewards/prompt.h"
#include "tests/tools/process.h"
#include "tests/tools/tiny.h"

using namespace parlo;
using namespace parlo::test;
using nlohmann::json;

namespace {

// Random weights draw noise, which every judge but the size of the file finds alike.
const std::string kReward = PARLO_HAVE_TURBOJPEG ? "jpeg_incompressibility" : "colorfulness";

// One pipeline and two adapters for the whole file.
struct World {
  TemporaryFolder folder;
  World() {
    write_tiny_pipeline(folder.path() / "base");
    write_tiny_adapter(folder.path() / "one", 11);
    write_tiny_adapter(folder.path() / "two", 12);
  }
  std::string at(const std::string& name) const { return folder / name; }
};

const World& world() {
  static const World w;
  return w;
}

Outcome sample(const std::string& out, std::vector<std::string> more) {
  std::vector<std::string> args{"sample", "--base", world().at("base"), "--steps", "2",
                                "--out",  out,      "--threads",        "1"};
  args.insert(args.end(), more.begin(), more.end());
  return run_parlo(args);
}

std::vector<std::string> eval_args(std::vector<std::string> more) {
  std::vector<std::string> args{
      "eval",    "--base", world().at("base"), "--rewards", "geneval," + kReward, "--steps", "2",
      "--count", "12",     "--threads",        "1"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

}  // namespace

TEST_CASE("sample writes a picture a prompt, the grid and the prompts") {
  TemporaryFolder out;
  const Outcome r =
      sample(out / "a", {"--prompt", "a red circle", "--prompt", "a blue square", "--count", "2"});
  INFO(r.output);
  REQUIRE(r.code == 0);
  CHECK(entries(out / "a") == 7);  // and the settings
  const Image first = read_png(out / "a/00000.png");
  CHECK(first.width == 16);
  CHECK(first != read_png(out / "a/00001.png"));  // other noise
  const Image grid = read_png(out / "a/grid.png");
  CHECK(grid.width == 2 * 4 * 16 + 2);
  CHECK(read_prompts(out / "a/prompts.jsonl")[2].text == "a blue square");

  SUBCASE("equal seeds give equal bytes, for any batch; a prompt file draws the same") {
    REQUIRE(sample(out / "b", {"--prompts", out / "a/prompts.jsonl", "--batch", "3"}).code == 0);
    CHECK(read_file(out / "b/00003.png") == read_file(out / "a/00003.png"));
  }
  SUBCASE("another seed and an adapter show") {
    REQUIRE(sample(out / "c", {"--prompt", "a red circle", "--seed", "9"}).code == 0);
    CHECK(read_png(out / "c/00000.png") != first);
    REQUIRE(sample(out / "d", {"--prompt", "a red circle", "--adapter", world().at("one")}).code ==
            0);
    CHECK(read_png(out / "d/00000.png") != first);
    const std::string file = out / "one.safetensors";  // the same adapter under kohya's names
    REQUIRE(run_parlo({"convert", world().at("one"), "--to", "kohya", "--out", file}).code == 0);
    REQUIRE(sample(out / "f", {"--prompt", "a red circle", "--adapter", file}).code == 0);
    CHECK(read_png(out / "f/00000.png") == read_png(out / "d/00000.png"));
    REQUIRE(sample(out / "e", {"--prompt", "a red circle", "--guidance", "3"}).code == 0);
    CHECK(read_png(out / "e/00000.png") != first);
  }
}

TEST_CASE("eval scores base and adapters and sweeps their merges") {
  TemporaryFolder out;
  const Outcome r =
      run_parlo(eval_args({"--adapter", world().at("one"), "--adapter", world().at("two"),
                           "--sweep", "2", "--json", "--out", out / "run"}));
  INFO(r.output);
  REQUIRE(r.code == 0);
  const json j = json::parse(r.output);
  CHECK(j == json::parse(read_file(out / "run/summary.json")));
  CHECK(j["scores"].size() == 6);  // base, one, two, three points of the grid
  for (const char* name : {"base", "one", "two", "merge:1,0", "merge:0.5,0.5", "merge:0,1"}) {
    CAPTURE(name);
    CHECK(j["scores"][name].contains("geneval"));
    CHECK(j["scores"][name].contains(kReward));
  }
  CHECK(j["scores"]["one"] == j["scores"]["merge:1,0"]);
  if (PARLO_HAVE_TURBOJPEG) {
    CHECK(j["scores"]["base"] != j["scores"]["one"]);
    CHECK(j["scores"]["merge:0.5,0.5"] != j["scores"]["one"]);
  }
  CHECK(j["hypervolume"]["base"] == 0);
  CHECK(j["paired_gain_over_base"]["base"][kReward]["se"] == 0);
  CHECK(j["front"].size() >= 1);
  for (const char* field : {"command", "commit", "seed", "device", "seconds", "peak_bytes"}) {
    CHECK(j.contains(field));
  }
  const std::string lines = read_file(out / "run/scores.jsonl");
  CHECK(std::count(lines.begin(), lines.end(), '\n') == 12);
  CHECK(json::parse(lines.substr(0, lines.find('\n')))["values"].size() == 12);
  // The middle of the sweep is the exact merge of both.
  REQUIRE(run_parlo({"merge", world().at("one"), world().at("two"), "--out", out / "half"}).code ==
          0);
  const json half = json::parse(
      run_parlo(eval_args({"--adapter", out / "half", "--json"})).output)["scores"]["half"];
  CHECK(half == j["scores"]["merge:0.5,0.5"]);
}

TEST_CASE("a transformer's file and a folder for the rest draw what the folder draws") {
  const TemporaryFolder folder;
  const auto draw = [&](std::vector<std::string> base) {
    const std::string out = folder / std::to_string(base.size());
    std::vector<std::string> args{"sample", "--steps",  "2",     "--guidance", "1", "--text-tokens",
                                  "24",     "--prompt", "a cat", "--out",      out};
    args.insert(args.end(), base.begin(), base.end());
    const Outcome r = run_parlo(args);
    INFO(r.output);
    REQUIRE(r.code == 0);
    CHECK(contains(r.output, "original layout") == (base.size() == 4));
    return read_png(out + "/00000.png");
  };
  const std::string file = golden("single_file/sd3.safetensors");
  const Image alike = draw({"--base", file, "--components", golden("pipe_sd3")});
  CHECK((alike == draw({"--base", golden("pipe_sd3")})));
  const Outcome alone =
      run_parlo({"sample", "--base", file, "--prompt", "a cat", "--out", folder / "none"});
  CHECK(alone.code == 2);
  CHECK(contains(alone.output, "add --components FOLDER"));
  CHECK(!std::filesystem::exists(folder / "none"));
}

TEST_CASE("what cannot be drawn or scored leaves nothing behind") {
  TemporaryFolder out;
  const std::string to = out / "x";
  const std::vector<std::string> some{"--prompt", "a red circle"};
  const auto refused = [&](int code, const std::vector<std::string>& more,
                           const std::vector<std::string>& words, const std::string& base) {
    std::vector<std::string> args{"sample", "--base", base, "--out", to};
    args.insert(args.end(), more.begin(), more.end());
    check_refused(args, code, words);
  };
  const std::string base = world().at("base");
  write_file(out / "empty.jsonl", "\n");
  write_file(out / "broken.jsonl", "a red circle\n");
  refused(2, some, {"--base /nowhere does not exist"}, "/nowhere");
  refused(1, some, {"cannot be read"}, world().at("one"));
  refused(2, {}, {"no prompt given"}, base);
  refused(2, {"--prompt", " "}, {"--prompt is empty"}, base);
  refused(2, {"--prompts", out / "empty.jsonl"}, {"holds no prompts"}, base);
  refused(2, {"--prompts", out / "broken.jsonl"}, {"broken.jsonl:1"}, base);
  refused(2, {"--prompts", "/nowhere"}, {"/nowhere"}, base);
  refused(2, {"--prompt", "a", "--steps", "0"}, {"--steps 0"}, base);
  refused(2, {"--prompt", "a", "--guidance", "nan"}, {"--guidance nan"}, base);
  refused(2, {"--prompt", "a", "--adapter", "/nowhere"}, {"--adapter /nowhere"}, base);
  refused(1, {"--prompt", "a", "--adapter", golden("sd3_a_lora")}, {"does not fit the base"}, base);
  check_refused({"sample", "--base", base, "--prompt", "a", "--out", out / "empty.jsonl/x"}, 2,
                {"is not a folder"});
  check_refused({"sample", "--base", base, "--prompt", "a", "--out", "/proc/x", "--steps", "1"}, 0,
                {"/proc/x"});

  check_refused(eval_args({"--rewards", "beauty"}), 2, {"unknown reward", "beauty", "geneval"});
  check_refused(eval_args({"--rewards", "geneval,geneval"}), 2, {"twice"});
  check_refused(eval_args({"--sweep", "2"}), 2, {"--sweep needs two adapters"});
  check_refused(eval_args({"--adapter", "/nowhere"}), 2, {"--adapter /nowhere"});
  check_refused(eval_args({"--adapter", golden("sd3_a_lora"), "--out", to}), 1,
                {"does not fit the base"});
  check_refused(eval_args({"--prompts", out / "empty.jsonl"}), 2, {"holds no prompts"});
  write_file(out / "plain.jsonl", "{\"prompt\": \"a red circle\"}\n");
  check_refused(eval_args({"--prompts", out / "plain.jsonl"}), 2, {"geneval", "cannot judge"});
  CHECK(!std::filesystem::exists(to));
}
