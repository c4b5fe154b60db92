// Adapters as PEFT stores them: a folder with adapter_model.safetensors and adapter_config.json.
// The update of a module is scale * B A, with A (r, in) and B (out, r).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tensor/tensor.h"

namespace parlo {

// Which modules an adapter sits on.
struct TargetModules {
  std::vector<std::string> names;  // a module with that name, or ending in "." and that name
  std::string pattern;             // a regular expression for the whole name, or "all-linear"

  bool empty() const { return names.empty() && pattern.empty(); }
  bool matches(const std::string& module) const;
};

bool matches_target(const std::string& module, const TargetModules& targets);

// Exceptions by module. A key is a regular expression for the name or for its end after a dot;
// the first key that matches counts, as in PEFT.
template <class T>
using Patterns = std::vector<std::pair<std::string, T>>;

struct AdapterConfig {
  int64_t r = 8;
  double lora_alpha = 8;
  TargetModules target_modules;
  TargetModules exclude_modules;
  bool use_rslora = false;  // scale = alpha / sqrt(r) instead of alpha / r
  Patterns<int64_t> rank_pattern;
  Patterns<double> alpha_pattern;
  std::string init_lora_weights = "gaussian";  // "true" and "false" stand for the booleans
  std::string base_model_name_or_path;
  double lora_dropout = 0;

  int64_t rank_of(const std::string& module) const;
  double scale_of(const std::string& module) const;
  bool targets(const std::string& module) const;
};

struct AdapterPair {
  Tensor a, b;  // f32; from open_adapter as stored
  double scale = 1;
};
using AdapterModules = std::map<std::string, AdapterPair>;

struct AdapterFile {
  AdapterConfig config;
  AdapterModules modules;
};

// An adapter of any format (lora/formats.h), file or folder. Throws Error listing every offender at
// once: keys that are no pair, shapes and ranks that do not fit the config, modules outside of
// target_modules, fields that change the meaning (use_dora...), values that are not finite. Tensors
// are fresh f32 copies.
AdapterFile read_adapter(const std::filesystem::path& place);

// Equal input gives equal bytes; each of the two files is atomic, the tensors come first. Throws
// Error when tensors and config disagree.
void write_adapter(const std::filesystem::path& folder, const AdapterFile& adapter);

// The same, module by module: of the pairs in `plan` only dtypes, shapes and scales count (see
// planned_pair), `make` gives the tensors, once per module where all have one dtype.
void stream_adapter(const std::filesystem::path& folder, const AdapterFile& plan,
                    const std::function<AdapterPair(const std::string& module)>& make);

// A pair of that shape that takes no memory.
AdapterPair planned_pair(int64_t out, int64_t in, int64_t rank, double scale);

// A config that describes the given tensors: the most common rank and scale, exceptions as
// patterns, and every module named. `like` gives the rest.
AdapterFile describe_adapter(AdapterModules modules, AdapterConfig like);

// Throws Error listing every module that the base lacks or whose weight (out, in) does not fit.
void check_adapter_fits(const AdapterFile& adapter,
                        const std::map<std::string, Shape>& base_weights);

}  // namespace parlo
