// A FLUX folder through the binary: pictures, and adapters that training writes.
#include "rl/rewards/png.h"
#include "rl/rewards/prompt.h"
#include "tests/models/tiny_flux.h"
#include "tests/tools/process.h"
#include "tools/world/vocabulary.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("FLUX draws, is trained, and draws with what was trained") {
  const TemporaryFolder folder;
  const std::string base = folder / "base";
  write_pixel_flux(base, world_vocabulary());
  const auto draw = [&](const std::string& to, std::vector<std::string> more) {
    std::vector<std::string> args{"sample", "--base",   base,           "--steps",   "2", "--out",
                                  to,       "--prompt", "a red circle", "--threads", "1"};
    args.insert(args.end(), more.begin(), more.end());
    const Outcome r = run_parlo(args);
    INFO(r.output);
    REQUIRE(r.code == 0);
    return read_png(to + "/00000.png");
  };
  const Image plain = draw(folder / "plain", {});
  CHECK(plain.width == 32);

  std::vector<Prompt> prompts(2);
  prompts[0].text = "a red circle", prompts[1].text = "a blue square";
  prompts[1].id = 1;
  write_prompts(folder / "prompts.jsonl", prompts);
  const std::string run = folder / "run", of = folder / "prompts.jsonl";
  const Outcome r = run_parlo({"train",
                               "--base",
                               base,
                               "--out",
                               run,
                               "--threads",
                               "1",
                               "--method",
                               "single",
                               "--rewards",
                               "jpeg_compressibility",
                               "--train-prompts",
                               of,
                               "--eval-prompts",
                               of,
                               "--steps",
                               "2",
                               "--sampler-steps",
                               "3",
                               "--window",
                               "1",
                               "--window-high",
                               "2",
                               "--prompts-per-step",
                               "2",
                               "--group-size",
                               "2",
                               "--rank",
                               "2",
                               "--eval-steps",
                               "2",
                               "--lr",
                               "0.01"});
  INFO(r.output);
  REQUIRE(r.code == 0);
  const std::string adapter = run + "/adapters/iteration_1_jpeg_compressibility";
  CHECK(draw(folder / "trained", {"--adapter", adapter}) != plain);
}
