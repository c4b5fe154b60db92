// parlo init: a complete model folder of a preset with keyed random weights, for measuring what
// loading, sampling and training take where the published weights are not at hand.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include "tensor/philox.h"
#include "tools/commands.h"
#include "tools/model_preset.h"
#include "tools/options.h"
#include "tools/paths.h"
#include "tools/progress.h"
#include "tools/scratch_folder.h"
#include "tools/shards.h"

namespace parlo {
namespace {

namespace fs = std::filesystem;

struct InitOptions {
  std::string preset, out, dtype = "published";
  CommonOptions common;
  size_t shard_bytes = size_t{5} << 30;
  bool no_weights = false;
};

constexpr size_t kMiB = size_t{1} << 20;

std::vector<PlannedTensor> planned(const PresetComponent& c, DType dtype) {
  std::vector<PlannedTensor> out;
  for (const auto& [name, shape] : c.params->shapes()) out.push_back({name, dtype, shape});
  return out;
}

size_t weight_bytes(const ModelPreset& preset, DType dtype) {
  size_t bytes = 0;
  for (const PresetComponent& c : preset.components) {
    for (const PlannedTensor& t : planned(c, dtype)) bytes += t.bytes();
  }
  return bytes;
}

// Before anything is written: a disk that fills up costs minutes.
void require_room(const fs::path& folder, size_t bytes) {
  fs::path there = fs::absolute(folder);
  while (!fs::exists(there) && there.has_relative_path()) there = there.parent_path();
  std::error_code failed;
  const fs::space_info space = fs::space(there, failed);
  if (failed) return;
  CHECK(space.available >= bytes, "--out ", folder.string(), ": the weights take ",
        format_bytes(static_cast<double>(bytes)), " and its disk has ",
        format_bytes(static_cast<double>(space.available)),
        " free; give a folder on another disk, or a narrower --dtype");
}

// Counts what has been made: a line or a move of the bar every fiftieth.
class WrittenBytes {
 public:
  explicit WrittenBytes(size_t total)
      : total_(total), bar_("written MiB", static_cast<int64_t>(total / kMiB)) {}
  void add(size_t bytes, const std::string& what) {
    done_ += bytes;
    if (done_ - shown_ < std::max(total_ / 50, kMiB) && done_ < total_) return;
    shown_ = done_;
    bar_.update(static_cast<int64_t>(done_ / kMiB), what);
  }

 private:
  size_t total_, done_ = 0, shown_ = 0;
  Progress bar_;
};

void write_weights(const ModelPreset& preset, const fs::path& folder, DType dtype,
                   const InitOptions& o) {
  WrittenBytes written(weight_bytes(preset, dtype));
  const RandomKey key = RandomKey(o.common.seed).fold("init");
  for (const PresetComponent& c : preset.components) {
    const auto make = [&](const std::string& name) {
      const Tensor value = c.params->drawn(name, key.fold(c.folder)).to(dtype);
      written.add(value.nbytes(), c.folder);
      return value;
    };
    stream_shards(folder / c.folder, c.base(), planned(c, dtype), make, o.shard_bytes);
  }
}

void run(const InitOptions& o) {
  const ModelPreset preset = model_preset(o.preset);
  require_new_folder(o.out, "--out");
  const DType dtype = o.dtype == "published" ? preset.published
                      : o.dtype == "f32"     ? DType::f32
                      : o.dtype == "f16"     ? DType::f16
                                             : DType::bf16;
  const size_t bytes = o.no_weights ? 0 : weight_bytes(preset, dtype);
  require_room(o.out, bytes);
  if (bytes > 0) {
    std::printf("%s: %s of random %s weights to %s\n", o.preset.c_str(),
                format_bytes(static_cast<double>(bytes)).c_str(),
                std::string(dtype_name(dtype)).c_str(), o.out.c_str());
    std::fflush(stdout);
  }
  const auto start = std::chrono::steady_clock::now();
  ScratchFolder scratch(o.out);
  write_configuration(preset, scratch.place());
  if (!o.no_weights) write_weights(preset, scratch.place(), dtype, o);
  scratch.move_to_final();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf("done   %s in %s, peak memory %s\n", o.out.c_str(),
              format_duration(seconds.count()).c_str(),
              format_bytes(static_cast<double>(process_peak_bytes())).c_str());
}

}  // namespace

void add_init(CLI::App& parent) {
  auto o = std::make_shared<InitOptions>();
  CLI::App* app = parent.add_subcommand("init",
                                        "Write a model folder of a preset with random weights: the "
                                        "published configuration and names, "
                                        "a small vocabulary");
  std::string names;
  for (const std::string& n : model_preset_names()) names += (names.empty() ? "" : ", ") + n;
  app->add_option("--preset", o->preset, names)->required();
  app->add_option("--out", o->out, "Model folder, new or empty")->required();
  app->add_option("--dtype", o->dtype,
                  "Of the weights: f32, bf16, f16, or published (bf16; f32 of the tiny ones)")
      ->capture_default_str()
      ->check(CLI::IsMember({"published", "f32", "bf16", "f16"}));
  app->add_option("--shard-size", o->shard_bytes,
                  "Most bytes of a weight file, e.g. 5GB; more become shards with an index; 0: one "
                  "file")
      ->transform(CLI::AsSizeValue(true))
      ->capture_default_str();
  app->add_flag("--no-weights", o->no_weights,
                "All but the weights: what parlo plan reads of a folder");
  app->add_option("--seed", o->common.seed, "Seed of the weights")->capture_default_str();
  app->add_option("--threads", o->common.threads, "Threads; 0 uses every core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app->callback([o] {
    apply(o->common);
    run(*o);
  });
}

}  // namespace parlo
