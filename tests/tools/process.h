// Running the real binary, and a model small enough to draw with in a test.
#pragma once

#include <sys/wait.h>
#include <cstdio>
#include <string>
#include <vector>

#include "tests/support.h"

namespace parlo::test {

struct Outcome {
  int code = -1;
  std::string output;  // stdout and stderr together
};

// `before` goes in front of the command, e.g. "timeout -s KILL 1 ".
inline Outcome run_parlo(const std::vector<std::string>& arguments,
                         const std::string& before = "") {
  std::string command = before + PARLO_BINARY;
  for (const std::string& a : arguments) {
    command += " '";
    for (char c : a) command += c == '\'' ? std::string("'\\''") : std::string(1, c);
    command += "'";
  }
  Outcome result;
  FILE* pipe = ::popen((command + " 2>&1").c_str(), "r");
  DOCTEST_REQUIRE(pipe != nullptr);
  char buffer[4096];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, pipe)) > 0;) {
    result.output.append(buffer, n);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  return result;
}

// The command ends with the code (0: any but 0) and one line that holds every one of the words.
inline void check_refused(const std::vector<std::string>& arguments, int code,
                          const std::vector<std::string>& words) {
  const Outcome r = run_parlo(arguments);
  INFO("output: ", r.output);
  DOCTEST_CHECK((code == 0 ? r.code > 0 : r.code == code));
  DOCTEST_CHECK(std::count(r.output.begin(), r.output.end(), '\n') == 1);
  for (const std::string& word : words) {
    INFO("expected: ", word);
    DOCTEST_CHECK(contains(r.output, word));
  }
}

// Nothing is left of a command that failed: no such file and no temporary one beside it.
inline size_t entries(const std::filesystem::path& folder) {
  size_t n = 0;
  for (const auto& e : std::filesystem::directory_iterator(folder)) n += e.exists();
  return n;
}

}  // namespace parlo::test
