#include "lora/peft.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "lora/peft_config.h"
#include "models/regex.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/safetensors.h"

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

// One line with every offender; a broken file may have thousands.
void refuse_all(const std::string& what, const std::vector<std::string>& offenders) {
  if (offenders.empty()) return;
  constexpr size_t kShown = 40;
  std::string list;
  for (size_t i = 0; i < std::min(offenders.size(), kShown); ++i) {
    list += (i == 0 ? "" : "; ") + offenders[i];
  }
  if (offenders.size() > kShown) list += concat("; and ", offenders.size() - kShown, " more");
  throw Error(concat(what, ": ", list));
}

bool all_finite(const Tensor& t) {
  const auto values = t.span<float>();
  return std::all_of(values.begin(), values.end(), [](float x) { return std::isfinite(x); });
}

// MODULE of "base_model.model.MODULE.lora_A.weight"; empty when the key has another form.
std::string module_of(const std::string& key, const std::string& side) {
  const std::string suffix = "." + side + ".weight";
  if (!key.starts_with(kPrefix) || !key.ends_with(suffix)) return "";
  const size_t begin = std::string(kPrefix).size();
  if (key.size() <= begin + suffix.size()) return "";
  return key.substr(begin, key.size() - begin - suffix.size());
}

std::string key_hint(const std::string& key) {
  for (const char* form : {"lora_magnitude_vector", "lora_embedding", "hada_", "lokr_", "lora_mid",
                           "lora_down", "lora_up", ".alpha"}) {
    if (key.find(form) != std::string::npos) return concat(" (", form, " is not supported)");
  }
  return "";
}

AdapterModules read_pairs(const SafeTensors& file, std::vector<std::string>& offenders) {
  AdapterModules modules;
  for (const std::string& key : file.names()) {
    const std::string a = module_of(key, "lora_A"), b = module_of(key, "lora_B");
    if (a.empty() && b.empty()) {
      offenders.push_back(concat("unknown key ", key, key_hint(key)));
      continue;
    }
    const Tensor stored = file.get(key);
    if (!is_floating(stored.dtype())) {
      offenders.push_back(concat(key, " has dtype ", dtype_name(stored.dtype())));
      continue;
    }
    const Tensor value = stored.dtype() == DType::f32 ? stored.clone() : stored.to(DType::f32);
    if (!all_finite(value)) offenders.push_back(concat(key, " holds values that are not finite"));
    (a.empty() ? modules[b].b : modules[a].a) = value;
  }
  return modules;
}

void check_pair(const std::string& module, const AdapterPair& pair, const AdapterConfig& config,
                std::vector<std::string>& offenders) {
  if (!pair.a || !pair.b) {
    offenders.push_back(concat(module, " has no ", pair.a ? "lora_B" : "lora_A"));
    return;
  }
  const int64_t rank = config.rank_of(module);
  if (pair.a.rank() != 2 || pair.b.rank() != 2) {
    offenders.push_back(concat(module, " has lora_A ", pair.a.shape(), " and lora_B ",
                               pair.b.shape(), ", expected two dimensions"));
  } else if (pair.a.dim(0) != rank || pair.b.dim(1) != rank) {
    offenders.push_back(concat(module, " has lora_A ", pair.a.shape(), " and lora_B ",
                               pair.b.shape(), ", the config gives rank ", rank));
  }
  if (!config.targets(module)) {
    offenders.push_back(concat(module, " is not one of target_modules"));
  }
}

void check_pairs(const std::string& what, const AdapterFile& adapter,
                 std::vector<std::string> offenders) {
  for (const auto& [module, pair] : adapter.modules) {
    check_pair(module, pair, adapter.config, offenders);
  }
  if (adapter.modules.empty() && offenders.empty()) offenders.push_back("no adapted module");
  refuse_all(what, offenders);
}

}  // namespace

bool TargetModules::matches(const std::string& module) const {
  if (pattern == "all-linear") return true;
  if (!pattern.empty()) return Regex(pattern).full_match(module);
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

AdapterFile read_adapter(const fs::path& folder) {
  std::error_code ignored;
  CHECK(fs::is_directory(folder, ignored), folder.string(),
        ": not a folder; expected an adapter folder with ", kConfig, " and ", kWeights);
  AdapterFile adapter;
  std::vector<std::string> offenders;
  adapter.config =
      parse_adapter_config(read_file(folder / kConfig), (folder / kConfig).string(), offenders);
  adapter.modules = read_pairs(SafeTensors::open(folder / kWeights), offenders);
  check_pairs(folder.string(), adapter, offenders);
  for (auto& [module, pair] : adapter.modules) pair.scale = adapter.config.scale_of(module);
  return adapter;
}

void write_adapter(const fs::path& folder, const AdapterFile& adapter) {
  std::vector<std::string> offenders;
  for (const auto& [module, pair] : adapter.modules) {
    const double expected = adapter.config.scale_of(module);
    if (std::abs(pair.scale - expected) > 1e-9 * std::abs(expected)) {
      offenders.push_back(
          concat(module, " has scale ", pair.scale, ", the config gives ", expected));
    }
  }
  check_pairs(concat("cannot write ", folder.string()), adapter, offenders);
  NamedTensors tensors;
  for (const auto& [module, pair] : adapter.modules) {
    tensors.emplace_back(concat(kPrefix, module, ".lora_A.weight"), pair.a);
    tensors.emplace_back(concat(kPrefix, module, ".lora_B.weight"), pair.b);
  }
  make_folders(folder);
  save_safetensors(folder / kWeights, std::move(tensors), {{"format", "pt"}});
  write_file(folder / kConfig, adapter_config_json(adapter.config));
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
  if (!covered) {
    like.target_modules = {};
    for (const auto& [module, pair] : modules) like.target_modules.names.push_back(module);
  }
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
