// Flags that several commands share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "tensor/device.h"

namespace parlo {

struct CommonOptions {
  uint64_t seed = 1;
  int threads = 0;  // 0: every core
  std::string device = "auto";
  bool sync_debug = false;
  bool no_graphs = false;
};

void add_common(CLI::App& app, CommonOptions& options);
// Applies threads and gives the device: auto is the first GPU where there is one. UsageError for a
// device that this build or machine does not have.
Device apply(const CommonOptions& options);

}  // namespace parlo
