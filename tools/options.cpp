#include "tools/options.h"

#include <algorithm>
#include <charconv>

#include "tensor/device_memory.h"
#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/replay.h"

namespace parlo {

void add_common(CLI::App& app, CommonOptions& options) {
  app.add_option("--seed", options.seed, "Seed of every random draw")->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0 uses every core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--device", options.device, "auto, cpu or cuda[:i]")->capture_default_str();
  app.add_flag("--sync-debug", options.sync_debug,
               "GPU: wait after every kernel, so that an error names the one that failed")
      ->configurable(false);
  app.add_flag("--no-graphs", options.no_graphs,
               "GPU: start every kernel by itself instead of recorded passes (CUDA graphs)")
      ->configurable(false);
}

namespace {

Device device_of(const std::string& name) {
  if (name == "cpu") return {};
  if (name == "auto") return gpu_count() > 0 ? Device{Device::Kind::cuda, 0} : Device{};
  int index = 0;
  const char *first = name.data() + std::min<size_t>(5, name.size()),
             *last = name.data() + name.size();
  const bool indexed = name.starts_with("cuda:") && first != last &&
                       std::from_chars(first, last, index).ptr == last && index >= 0;
  if (name != "cuda" && !indexed) {
    throw UsageError("--device " + name + ": expected auto, cpu, cuda or cuda:N");
  }
  if (gpu_count() == 0) {
    throw UsageError("--device " + name + ": " + why_no_gpu() + "; use --device cpu");
  }
  if (index >= gpu_count()) {
    throw UsageError(concat("--device ", name, ": this machine has ", gpu_count(), " GPU(s)"));
  }
  return {Device::Kind::cuda, index};
}

}  // namespace

Device apply(const CommonOptions& options) {
  if (options.threads > 0) set_num_threads(options.threads);
  set_sync_debug(options.sync_debug);
  allow_recordings(!options.no_graphs && !options.sync_debug);
  return device_of(options.device);
}

}  // namespace parlo
