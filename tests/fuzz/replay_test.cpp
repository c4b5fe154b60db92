// The seeds and a few hundred mutations of them, the same in every run, through every target: what
// a fuzzer found once stays found, and machines without clang run the same code.
#include <fstream>
#include <map>
#include <random>
#include <sstream>

#include "tests/fuzz/targets.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
namespace fs = std::filesystem;

namespace {

std::string content_of(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

std::map<std::string, std::string> seeds_of(const fuzz::Target& target) {
  std::map<std::string, std::string> out;
  const fs::path folder = fs::path(PARLO_SOURCE_DIR) / "tests/fuzz/seeds" / target.name;
  for (const auto& entry : fs::directory_iterator(folder)) {
    out[entry.path().filename().string()] = content_of(entry.path());
  }
  return out;
}

// One to four edits: bytes changed, cut out, repeated, or taken from another seed; numbers blown
// up.
std::string mutated(std::string text, const std::string& other, std::mt19937& random) {
  const auto below = [&](size_t n) { return n == 0 ? 0 : random() % n; };
  const size_t edits = 1 + below(4);
  for (size_t i = 0; i < edits; ++i) {
    const size_t at = below(text.size()), length = 1 + below(16);
    switch (below(7)) {
      case 0:
        if (!text.empty()) text[at] = char(below(256));
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(at, text.substr(at, length));
        break;
      case 3:
        text.insert(at, other.substr(below(other.size()), 4 * length));
        break;
      case 4:
        text.resize(at);
        break;
      case 5: {
        const size_t digit = text.find_first_of("0123456789", at);
        static const char* kNumbers[] = {"0", "-1", "65536", "2147483648", "18446744073709551615"};
        if (digit != text.npos) text.replace(digit, 1, kNumbers[below(5)]);
        break;
      }
      default:
        text.insert(at, std::string(length * 64, "[{\"0"[below(4)]));
    }
  }
  return text;
}

}  // namespace

TEST_CASE("seeds are read or refused as their names say") {
  for (const fuzz::Target& target : fuzz::targets()) {
    int read = 0;
    for (const auto& [name, text] : seeds_of(target)) {
      INFO(target.name, "/", name);
      const bool good = name.starts_with("good");
      CHECK(fuzz::run(target.load, text) == good);
      read += good;
    }
    INFO(target.name);
    CHECK(read > 0);
  }
}

TEST_CASE("mutated seeds are read or refused") {
  constexpr int kMutations = 400;
  for (const fuzz::Target& target : fuzz::targets()) {
    std::vector<std::string> seeds;
    for (const auto& [name, text] : seeds_of(target)) seeds.push_back(text);
    std::mt19937 random(1);
    int refused = 0;
    for (int i = 0; i < kMutations; ++i) {
      const std::string& seed = seeds[random() % seeds.size()];
      const std::string input = mutated(seed, seeds[random() % seeds.size()], random);
      INFO(target.name, ", mutation ", i, ": ", printable(input, 2000));
      CHECK_NOTHROW(refused += !fuzz::run(target.load, input));
    }
    INFO(target.name, ": ", refused, " of ", kMutations, " were refused");
    CHECK(refused > kMutations / 10);
    CHECK(refused < kMutations);
  }
}

TEST_CASE("the runner tells a refusal from a fault") {
  CHECK(fuzz::run([](std::string_view) {}, ""));
  CHECK_FALSE(fuzz::run([](std::string_view) { throw Error("a\nb"); }, ""));
  const auto empty = [](std::string_view) { throw Error(""); };
  const auto foreign = [](std::string_view) { throw std::bad_alloc(); };
  CHECK_THROWS_AS(fuzz::run(empty, ""), std::logic_error);
  CHECK_THROWS_AS(fuzz::run(foreign, ""), std::bad_alloc);
  const auto parts = fuzz::parts_of(
      "a\x1e\x1e"
      "c\x1e"
      "d",
      3);
  CHECK((parts[0] == "a" && parts[1].empty() &&
         parts[2] == "c\x1e"
                     "d"));
}
