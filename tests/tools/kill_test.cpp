// kill -9 at any moment: `parlo train --resume` ends with the bytes of a run that was left alone.
#include <random>

#include "tests/tools/train_bench.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("killed at 20 random moments, a run ends with the same bytes") {
  using clock = std::chrono::steady_clock;
  // Longer than the others, so that kills fall everywhere.
  const std::map<std::string, std::string> longer{{"--steps", "32"}, {"--eval-every", "6"}};
  const auto start = clock::now();
  const Outcome whole = parlo_run(workshop().train("killed_reference", longer));
  const double seconds = std::chrono::duration<double>(clock::now() - start).count();
  REQUIRE(whole.code == 0);
  const fs::path reference = workshop().folder / "killed_reference";
  const auto expected = adapters_of(reference);
  const auto log = log_of(reference);
  REQUIRE(expected.size() == 10);

  std::mt19937 engine(std::random_device{}());
  std::uniform_real_distribution<double> delay(0.0, seconds / 4);
  int kills = 0, runs = 0;
  std::string moments;
  while (kills < 20 && runs < 12) {
    const fs::path run = workshop().folder / concat("killed_", runs++);
    for (bool done = false; !done;) {
      // Before its settings are written there is nothing to resume: start again.
      const bool begun = fs::exists(run / "config.toml");
      const std::vector<std::string> args =
          begun ? std::vector<std::string>{"train", "--resume", run.string()}
                : workshop().train(run.filename().string(), longer);
      const double wait = kills < 20 ? delay(engine) : -1;
      const Outcome out = parlo_run(args, wait);
      done = out.code == 0;
      kills += out.signal == SIGKILL;
      if (out.signal == SIGKILL) moments += concat(wait, " ");
      INFO(out.err);
      if (!done) REQUIRE(out.signal == SIGKILL);
    }
    INFO("kill moments: ", moments);
    CHECK((adapters_of(run) == expected));
    check_same_log(run, log);
    CHECK(fs::exists(run / "summary.json"));
    CHECK(fs::exists(run / "samples" / "merged.png"));
  }
  MESSAGE(kills, " kills over ", runs, " runs of ", seconds, " s");
  CHECK(kills >= 20);
}
