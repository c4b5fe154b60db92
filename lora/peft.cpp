#include "lora/peft.h"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <optional>

#include "lora/adapter_checks.h"
#include "lora/peft_config.h"
#include "models/regex.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/safetensors_stream.h"

namespace parlo {
namespace fs = std::filesystem;

namespace {

constexpr const char* kPrefix = "base_model.model.";
constexpr const char* kWeights = "adapter_model.safetensors";
constexpr const char* kConfig = "adapter_config.json";

// A key is a regular expression, which is slow to compile; most keys are names, where only the dot
// is special.
bool pattern_matches(const std::string& key, const std::string& module) {
  const auto plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.';
  };
  if (!std::all_of(key.begin(), key.end(), plain)) {
    return Regex("(.*\\.)?(" + key + ")").full_match(module);
  }
  if (key.size() > module.size()) return false;
  const size_t begin = module.size() - key.size();
  if (begin > 0 && module[begin - 1] != '.') return false;
  return std::equal(key.begin(), key.end(), module.begin() + long(begin),
                    [](char k, char m) { return k == '.' || k == m; });
}

template <class T>
T pattern_value(const Patterns<T>& patterns, const std::string& module, T otherwise) {
  for (const auto& [key, value] : patterns) {
    if (pattern_matches(key, module)) return value;
  }
  return otherwise;
}

// These modules and no others. A name in a list also catches what ends in it: FLUX's "proj_out" is
// the end of "single_transformer_blocks.0.proj_out". Names of a block are safe, for others all of
// them become one expression.
TargetModules exactly(const AdapterModules& modules) {
  TargetModules out;
  bool safe = true;
  std::string pattern;
  for (const auto& [module, pair] : modules) {
    out.names.push_back(module);
    safe = safe && module.find("blocks.") != std::string::npos;
    pattern += pattern.empty() ? "" : "|";
    for (char c : module) pattern += c == '.' ? "\\." : std::string(1, c);
  }
  const bool plain = pattern.find_first_not_of(
                         "|\\.0123456789_abcdefghijklmnopqrstuvwxyz"
                         "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == std::string::npos;
  if (!safe && plain) return {{}, pattern};
  return out;
}

}  // namespace

bool TargetModules::matches(const std::string& module) const {
  if (pattern == "all-linear") return true;
  if (!pattern.empty()) {
    // Asked for module after module, and slow to compile.
    thread_local std::pair<std::string, std::optional<Regex>> last;
    if (last.first != pattern || !last.second) last = {pattern, Regex(pattern)};
    return last.second->full_match(module);
  }
  return std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return module == name || module.ends_with("." + name);
  });
}

bool matches_target(const std::string& module, const TargetModules& targets) {
  return targets.matches(module);
}

int64_t AdapterConfig::rank_of(const std::string& module) const {
  return pattern_value(rank_pattern, module, r);
}

double AdapterConfig::scale_of(const std::string& module) const {
  const double alpha = pattern_value(alpha_pattern, module, lora_alpha);
  const auto rank = static_cast<double>(rank_of(module));
  return alpha / (use_rslora ? std::sqrt(rank) : rank);
}

bool AdapterConfig::targets(const std::string& module) const {
  return target_modules.matches(module) && !exclude_modules.matches(module);
}

void stream_adapter(const fs::path& folder, const AdapterFile& plan,
                    const std::function<AdapterPair(const std::string& module)>& make) {
  std::vector<std::string> offenders;
  for (const auto& [module, pair] : plan.modules) {
    const double expected = plan.config.scale_of(module);
    if (std::abs(pair.scale - expected) > 1e-9 * std::abs(expected)) {
      offenders.push_back(
          concat(module, " has scale ", pair.scale, ", the config gives ", expected));
    }
  }
  check_pairs(concat("cannot write ", folder.string()), plan, offenders);
  std::vector<PlannedTensor> tensors;
  std::map<std::string, std::string> modules;  // of each key
  for (const auto& [module, pair] : plan.modules) {
    for (const auto& [side, t] : {std::pair("A", pair.a), std::pair("B", pair.b)}) {
      tensors.push_back({concat(kPrefix, module, ".lora_", side, ".weight"), t.dtype(), t.shape()});
      modules[tensors.back().name] = module;
    }
  }
  make_folders(folder);
  std::string made;
  AdapterPair pair;
  const auto tensor = [&](const std::string& key) {
    const std::string& module = modules.at(key);
    if (module != made) pair = make(module);  // A and B of a module stand side by side
    made = module;
    return key.ends_with(".lora_A.weight") ? pair.a : pair.b;
  };
  stream_safetensors(folder / kWeights, std::move(tensors), tensor, {{"format", "pt"}});
  write_file(folder / kConfig, adapter_config_json(plan.config));
}

void write_adapter(const fs::path& folder, const AdapterFile& adapter) {
  stream_adapter(folder, adapter,
                 [&](const std::string& module) { return adapter.modules.at(module); });
}

AdapterPair planned_pair(int64_t out, int64_t in, int64_t rank, double scale) {
  const Tensor one = Tensor::zeros({1, 1});
  return {one.expand({rank, in}), one.expand({out, rank}), scale};
}

AdapterFile describe_adapter(AdapterModules modules, AdapterConfig like) {
  CHECK(!modules.empty(), "describe_adapter: no adapted module");
  std::map<std::pair<int64_t, double>, int> counts;
  for (const auto& [module, pair] : modules) ++counts[{pair.a.dim(0), pair.scale}];
  const auto common =
      std::max_element(counts.begin(), counts.end(), [](const auto& x, const auto& y) {
        return x.second < y.second;
      })->first;
  const auto alpha = [&](int64_t rank, double scale) {
    const auto r = static_cast<double>(rank);
    return scale * (like.use_rslora ? std::sqrt(r) : r);
  };
  like.r = common.first;
  like.lora_alpha = alpha(common.first, common.second);
  like.rank_pattern.clear();
  like.alpha_pattern.clear();
  like.exclude_modules = {};
  bool covered = !like.target_modules.empty();
  for (const auto& [module, pair] : modules) {
    const int64_t rank = pair.a.dim(0);
    const double module_alpha = alpha(rank, pair.scale);
    if (rank != like.r) like.rank_pattern.emplace_back(module, rank);
    if (module_alpha != like.lora_alpha) like.alpha_pattern.emplace_back(module, module_alpha);
    covered = covered && like.target_modules.matches(module);
  }
  if (!covered) like.target_modules = exactly(modules);
  // Key "to_q" would also catch "x.to_q": the longest names come first.
  const auto longer = [](const auto& x, const auto& y) { return x.first.size() > y.first.size(); };
  std::stable_sort(like.rank_pattern.begin(), like.rank_pattern.end(), longer);
  std::stable_sort(like.alpha_pattern.begin(), like.alpha_pattern.end(), longer);
  return {std::move(like), std::move(modules)};
}

void check_adapter_fits(const AdapterFile& adapter,
                        const std::map<std::string, Shape>& base_weights) {
  std::vector<std::string> offenders;
  for (const auto& [module, pair] : adapter.modules) {
    const auto base = base_weights.find(module);
    if (base == base_weights.end()) {
      offenders.push_back(concat("the base has no linear ", module));
      continue;
    }
    const Shape needed{pair.b.dim(0), pair.a.dim(1)};
    if (!(base->second == needed)) {
      offenders.push_back(
          concat(module, " changes a weight of ", needed, ", the base has ", base->second));
    }
  }
  refuse_all("the adapter does not fit the base", offenders);
}

}  // namespace parlo
