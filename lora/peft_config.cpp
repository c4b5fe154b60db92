#include "lora/peft_config.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "models/regex.h"
#include "tensor/error.h"
#include "tensor/json_text.h"

namespace parlo {
// The order of rank_pattern's keys decides which one counts.
using json = nlohmann::ordered_json;

namespace {

// Read below.
const std::set<std::string> kRead = {"r",
                                     "lora_alpha",
                                     "target_modules",
                                     "use_rslora",
                                     "exclude_modules",
                                     "rank_pattern",
                                     "lora_dropout",
                                     "alpha_pattern",
                                     "init_lora_weights",
                                     "peft_type",
                                     "bias",
                                     "base_model_name_or_path"};
// No effect on the meaning of the stored factors.
const std::set<std::string> kIgnored = {
    "auto_mapping",      "inference_mode",      "layers_pattern", "layers_to_transform",
    "megatron_core",     "peft_version",        "revision",       "task_type",
    "qalora_group_size", "ensure_weight_tying", "runtime_config"};

// What a field holds when its feature is off.
bool is_off(const json& value) {
  return value.is_null() || value == false ||
         ((value.is_object() || value.is_array()) && value.empty());
}

class Reader {
 public:
  Reader(const json& config, const std::string& file) : config_(config), file_(file) {}

  const json& at(const std::string& key) const {
    static const json null;
    const auto found = config_.find(key);
    return found == config_.end() ? null : *found;
  }
  [[noreturn]] void wrong(const std::string& key, const std::string& expected) const {
    throw Error(concat(file_, ": ", key, " is ", shown(at(key)), ", expected ", expected));
  }
  double number(const std::string& key, double otherwise) const {
    const json& value = at(key);
    if (value.is_null()) return otherwise;
    if (!value.is_number() || !std::isfinite(value.get<double>())) wrong(key, "a number");
    return value.get<double>();
  }
  bool boolean(const std::string& key) const {
    const json& value = at(key);
    if (!value.is_null() && !value.is_boolean()) wrong(key, "true or false");
    return value.is_boolean() && value.get<bool>();
  }
  std::string text(const std::string& key) const {
    const json& value = at(key);
    if (!value.is_null() && !value.is_string()) wrong(key, "a string");
    return value.is_string() ? value.get<std::string>() : "";
  }
  TargetModules targets(const std::string& key) const {
    TargetModules out;
    const json& value = at(key);
    if (value.is_null()) return out;
    if (value.is_string()) {
      out.pattern = value.get<std::string>();
      if (out.pattern != "all-linear") checked_regex(key, out.pattern);
      return out;
    }
    if (!value.is_array()) wrong(key, "a list of names or a regular expression");
    for (const json& name : value) {
      if (!name.is_string()) wrong(key, "a list of names or a regular expression");
      out.names.push_back(name.get<std::string>());
    }
    std::sort(out.names.begin(), out.names.end());
    return out;
  }
  template <class T>
  Patterns<T> patterns(const std::string& key, double smallest) const {
    Patterns<T> out;
    const json& value = at(key);
    if (value.is_null()) return out;
    if (!value.is_object()) wrong(key, "an object of name: number");
    for (const auto& [name, item] : value.items()) {
      const bool fits = std::is_integral_v<T> ? item.is_number_integer() : item.is_number();
      if (!fits || item.template get<double>() < smallest)
        wrong(key, concat("numbers from ", smallest));
      checked_regex(key, name);
      out.emplace_back(name, item.template get<T>());
    }
    return out;
  }

 private:
  void checked_regex(const std::string& key, const std::string& pattern) const {
    try {
      Regex regex(pattern);
    } catch (const Error& error) {
      throw Error(concat(file_, ": ", key, ": ", error.what()));
    }
  }

  const json& config_;
  const std::string& file_;
};

void find_offenders(const json& config, std::vector<std::string>& offenders) {
  const auto refuse = [&](const std::string& key, const json& value) {
    offenders.push_back(
        concat("config field ", printable(key), " = ", shown(value), " is not supported"));
  };
  static const std::set<std::string> kInits = {"gaussian", "eva", "orthogonal"};
  for (const auto& [key, value] : config.items()) {
    if (key == "peft_type" && value != "LORA") refuse(key, value);
    if (key == "bias" && !value.is_null() && value != "none") refuse(key, value);
    // pissa, olora, loftq... change the base weight.
    if (key == "init_lora_weights" && value.is_string() && !kInits.count(value)) refuse(key, value);
    if (!kRead.count(key) && !kIgnored.count(key) && !is_off(value)) refuse(key, value);
  }
}

json targets_json(const TargetModules& targets) {
  if (!targets.pattern.empty()) return targets.pattern;
  if (targets.names.empty()) return nullptr;
  std::vector<std::string> names = targets.names;
  std::sort(names.begin(), names.end());
  return names;
}

// 8 rather than 8.0, as PEFT writes it.
json number_json(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

}  // namespace

AdapterConfig parse_adapter_config(const std::string& text, const std::string& file,
                                   std::vector<std::string>& offenders) {
  const json config = parse_json<json>(text, file);
  CHECK(config.is_object(), file, ": expected a JSON object");
  find_offenders(config, offenders);
  const Reader read(config, file);
  AdapterConfig out;
  const json& r = read.at("r");
  if (!r.is_number_integer() || r.get<int64_t>() < 1) read.wrong("r", "a rank from 1");
  out.r = r.get<int64_t>();
  out.lora_alpha = read.number("lora_alpha", 8);
  out.target_modules = read.targets("target_modules");
  if (out.target_modules.empty()) read.wrong("target_modules", "names or a regular expression");
  out.exclude_modules = read.targets("exclude_modules");
  out.use_rslora = read.boolean("use_rslora");
  out.rank_pattern = read.patterns<int64_t>("rank_pattern", 1);
  out.alpha_pattern = read.patterns<double>("alpha_pattern", -1e300);
  out.lora_dropout = read.number("lora_dropout", 0);
  out.base_model_name_or_path = read.text("base_model_name_or_path");
  const json& init = read.at("init_lora_weights");
  if (init.is_string()) out.init_lora_weights = init.get<std::string>();
  if (init.is_boolean()) out.init_lora_weights = init.get<bool>() ? "true" : "false";
  if (init.is_null()) out.init_lora_weights = "true";
  return out;
}

std::string adapter_config_json(const AdapterConfig& config) {
  json ranks = json::object(), alphas = json::object();
  for (const auto& [key, value] : config.rank_pattern) ranks[key] = value;
  for (const auto& [key, value] : config.alpha_pattern) alphas[key] = number_json(value);
  json init = config.init_lora_weights;
  if (config.init_lora_weights == "true") init = true;
  if (config.init_lora_weights == "false") init = false;
  json base = nullptr;
  if (!config.base_model_name_or_path.empty()) base = config.base_model_name_or_path;
  const json out = {{"alpha_pattern", alphas},
                    {"base_model_name_or_path", base},
                    {"bias", "none"},
                    {"exclude_modules", targets_json(config.exclude_modules)},
                    {"fan_in_fan_out", false},
                    {"inference_mode", true},
                    {"init_lora_weights", init},
                    {"lora_alpha", number_json(config.lora_alpha)},
                    {"lora_dropout", config.lora_dropout},
                    {"modules_to_save", nullptr},
                    {"peft_type", "LORA"},
                    {"r", config.r},
                    {"rank_pattern", ranks},
                    {"target_modules", targets_json(config.target_modules)},
                    {"task_type", nullptr},
                    {"use_dora", false},
                    {"use_rslora", config.use_rslora}};
  return out.dump(2) + "\n";
}

}  // namespace parlo
