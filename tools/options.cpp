#include "tools/options.h"

#include "tensor/error.h"
#include "tensor/parallel.h"

namespace parlo {

void add_common(CLI::App& app, CommonOptions& options) {
  app.add_option("--seed", options.seed, "Seed of every random draw")->capture_default_str();
  app.add_option("--threads", options.threads, "Threads; 0 uses every core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--device", options.device, "auto, cpu or cuda[:i]")->capture_default_str();
}

void apply(const CommonOptions& options) {
  if (options.device != "auto" && options.device != "cpu") {
    throw UsageError("--device " + options.device +
                     ": this build runs on the CPU only; use --device cpu");
  }
  if (options.threads > 0) set_num_threads(options.threads);
}

}  // namespace parlo
