// `parlo compare` through the binary, on summaries with figures that are easy to check by hand.
#include <nlohmann/json.hpp>

#include "tensor/file.h"
#include "tests/tools/process.h"

using namespace parlo;
using namespace parlo::test;
using nlohmann::json;

namespace {

std::string add_run(const TemporaryFolder& folder, const std::string& name,
                    const std::string& method, int seed, int iterations, const json& scores) {
  const auto path = folder.path() / name;
  std::filesystem::create_directories(path);
  const json summary{
      {"method", method}, {"seed", seed}, {"iterations", iterations}, {"scores", scores}};
  write_file(path / "summary.json", summary.dump());
  return path.string();
}

json point(double a, double b) {
  return {{"a", a}, {"b", b}};
}

}  // namespace

TEST_CASE("means, errors, paired differences, volumes and fronts over two seeds") {
  const TemporaryFolder folder;
  const json base = point(1, 1);
  std::vector<std::string> args{"compare", "--against", "soup K=1"};
  args.push_back(add_run(folder, "s1", "soup", 1, 1,
                         {{"base", base},
                          {"a", point(5, 0)},
                          {"soup:1,0", point(3, 2)},
                          {"soup:0,1", point(2, 4)},
                          {"merged", point(2, 3)}}));
  args.push_back(add_run(folder, "s2", "soup", 2, 1,
                         {{"base", base},
                          {"a", point(7, 1)},
                          {"soup:1,0", point(3, 3)},
                          {"soup:0,1", point(1, 9)},
                          {"merged", point(4, 3)}}));
  args.push_back(add_run(folder, "m1", "mapreduce", 1, 4,
                         {{"base", base}, {"expert@3", point(9, 9)}, {"merged", point(4, 4)}}));
  args.push_back(
      add_run(folder, "m2", "mapreduce", 2, 4, {{"base", base}, {"merged", point(8, 2)}}));
  const std::string csv = (folder.path() / "figures.csv").string();
  args.insert(args.end(), {"--csv", csv});
  const Outcome r = run_parlo(args);
  INFO(r.output);
  REQUIRE(r.code == 0);
  const auto has_row = [&](const std::string& name, const std::vector<std::string>& cells) {
    for (size_t at = 0; (at = r.output.find("\n" + name + " ", at)) != std::string::npos; ++at) {
      const std::string row = r.output.substr(at + 1, r.output.find('\n', at + 1) - at - 1);
      bool all = true;
      for (const std::string& cell : cells) all = all && contains(row, " " + cell + " ");
      if (all) return true;
    }
    return false;
  };
  CHECK(has_row("expert a", {"2", "6.0000 +- 1.0000", "0.5000 +- 0.5000"}));
  CHECK(has_row("mapreduce K=4", {"2", "6.0000 +- 2.0000", "3.0000 +- 1.0000"}));
  // Paired: (2, 1) in the first seed, (4, -1) in the second.
  CHECK(has_row("mapreduce K=4", {"2", "+3.0000 +- 1.0000", "+0.0000 +- 1.0000"}));
  // Over the base at (1, 1), in thousandths: 3 x 3 and 7 x 1; the soup's 1 x 2 and 3 x 2.
  CHECK(has_row("mapreduce K=4", {"8000.0000 +- 1000.0000"}));
  CHECK(has_row("mapreduce K=4", {"+4000.0000 +- 3000.0000"}));
  // (3, 2) and (2, 4) together cover 2 + 3 - 1; of (3, 3) and (1, 9) the second adds nothing.
  CHECK(has_row("soup front", {"4000.0000 +- 0.0000"}));
  CHECK(!contains(r.output, "expert@3"));
  const std::string text = read_file(csv);
  CHECK(text.starts_with("model,seed,a,b,hypervolume,a x b\n\"base\",1,1,1,0,0\n"));
  CHECK(contains(text, "\n\"mapreduce K=4\",2,8,2,7,7\n"));
  CHECK(contains(text, "\n\"soup front\",1,,,4,4\n"));
}

TEST_CASE("one reward has no volumes") {
  const TemporaryFolder folder;
  const std::string run =
      add_run(folder, "s", "single", 1, 1, {{"base", {{"a", 1.0}}}, {"a", {{"a", 2.5}}}});
  const Outcome r = run_parlo({"compare", run});
  CHECK(r.code == 0);
  CHECK(contains(r.output, "2.5000 +- "));
  CHECK(!contains(r.output, "hypervolume"));
}

TEST_CASE("what cannot be compared is named") {
  const TemporaryFolder folder;
  const std::string run =
      add_run(folder, "s", "soup", 1, 1, {{"base", point(1, 1)}, {"merged", point(2, 2)}});
  const std::string other =
      add_run(folder, "t", "soup", 1, 1, {{"base", {{"a", 1.0}}}, {"merged", {{"a", 1.0}}}});
  check_refused({"compare", run, other}, 2, {"t", "rewards"});
  check_refused({"compare", run, "--against", "nobody"}, 2, {"nobody", "base, soup K=1"});
  check_refused({"compare", (folder.path() / "none").string()}, 2, {"none", "not a run folder"});
}
