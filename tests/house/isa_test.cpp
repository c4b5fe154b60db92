// Objects compiled for AVX-512 share no weak symbols with the rest. The linker keeps one copy of an
// inline function (std::min, a vector's destructor, ...), and if it keeps one from such an object,
// a plain AVX2 machine dies with SIGILL far away from any AVX-512 code.

#include <doctest/doctest.h>

#include <algorithm>
#include <cctype>
#include <cstdio>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return std::tolower(c); });
  return text;
}

// One fault a line of `nm -A -C` that shows a shared weak symbol in an object of that kind. A
// symbol whose name contains avx512 can come from no other object.
std::vector<std::string> shared_weak_symbols(const std::string& listing) {
  std::vector<std::string> faults;
  std::istringstream lines(listing);
  std::string line;
  while (std::getline(lines, line)) {
    std::string object, type, name;
    std::istringstream words(line);
    words >> object >> type;
    std::getline(words >> std::ws, name);
    const size_t colon = object.rfind(':');
    if (colon == std::string::npos || lower(object).find("avx512") == std::string::npos) continue;
    if (type.size() != 1 || std::string("WVu").find(type[0]) == std::string::npos) continue;
    // Unwinding data of a fixed form, without code.
    if (name.rfind("DW.ref.", 0) == 0) continue;
    if (lower(name).find("avx512") == std::string::npos) faults.push_back(object + " " + name);
  }
  return faults;
}

[[maybe_unused]] std::string output_of(const std::string& command) {
  std::string text;
  FILE* pipe = popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  char buffer[4096];
  size_t got = 0;
  while ((got = fread(buffer, 1, sizeof buffer, pipe)) > 0) text.append(buffer, got);
  REQUIRE(pclose(pipe) == 0);
  return text;
}

}  // namespace

TEST_CASE("a planted weak symbol is caught") {
  const std::string object = "kernels_avx512.dir/gemm.cpp.o:0000000000000000 ";
  CHECK(shared_weak_symbols(object + "W float const& std::min<float>(float const&)\n").size() == 1);
  CHECK(shared_weak_symbols(object + "V parlo::kTable\n").size() == 1);
  CHECK(shared_weak_symbols(object + "W void parlo::cpu::avx512::tile<8>(float*)\n").empty());
  CHECK(shared_weak_symbols(object + "T parlo::cpu::gemm(float*)\n").empty());
  CHECK(shared_weak_symbols(object + "V DW.ref.__gxx_personality_v0\n").empty());
  CHECK(shared_weak_symbols("kernels.dir/norm.cpp.o:0000000000000000 W std::min\n").empty());
}

#ifdef PARLO_ISA_OBJECTS
TEST_CASE("objects for AVX-512 share no weak symbols") {
  const std::string listing = output_of("nm -A -C --defined-only " PARLO_ISA_OBJECTS);
  CHECK(listing.find("avx512") != std::string::npos);
  for (const std::string& fault : shared_weak_symbols(listing)) FAIL_CHECK(fault);
}
#endif
