// Flags that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace parlo {

struct CommonOptions {
  uint64_t seed = 1;
  int threads = 0;  // 0: every core
  std::string device = "auto";
};

void add_common(CLI::App& app, CommonOptions& options);
// Applies threads and checks the device; UsageError for one this build does not have.
void apply(const CommonOptions& options);

}  // namespace parlo
