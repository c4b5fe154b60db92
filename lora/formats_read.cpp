#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/functions.h"
#include "lora/adapter_checks.h"
#include "lora/adapter_keys.h"
#include "lora/formats.h"
#include "lora/fused.h"
#include "lora/peft_config.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_text.h"
#include "tensor/safetensors.h"

namespace parlo {
namespace fs = std::filesystem;

namespace {

constexpr const char* kMetadata = "lora_adapter_metadata";
using Offenders = std::vector<std::string>;

struct Place {
  fs::path weights, config;  // config: of a PEFT folder, else empty
};

Place locate(const fs::path& place) {
  std::error_code ignored;
  if (fs::is_regular_file(place, ignored)) {
    const fs::path config = place.parent_path() / "adapter_config.json";
    const bool peft = place.filename() == "adapter_model.safetensors" && fs::exists(config);
    return {place, peft ? config : fs::path()};
  }
  CHECK(fs::is_directory(place, ignored), place.string(),
        ": not a folder nor a file; expected an adapter folder with adapter_config.json and "
        "adapter_model.safetensors, or a .safetensors file");
  if (fs::exists(place / "adapter_config.json")) {
    return {place / "adapter_model.safetensors", place / "adapter_config.json"};
  }
  if (fs::exists(place / "pytorch_lora_weights.safetensors")) {
    return {place / "pytorch_lora_weights.safetensors", {}};
  }
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(place)) {
    if (entry.path().extension() == ".safetensors") files.push_back(entry.path());
  }
  CHECK(files.size() == 1, place.string(), ": holds ", files.size(),
        " .safetensors files and no adapter_config.json; expected an adapter folder, or name the "
        "file");
  return {files.front(), {}};
}

// The factors of one stem of keys, e.g. "lora_unet_final_layer_linear".
struct StoredPair {
  AdapterPair pair;
  std::optional<double> alpha;
};

void take(const std::string& key, const AdapterKey& parsed, const Tensor& value, StoredPair& into,
          Offenders& offenders) {
  if (parsed.side == AdapterSide::alpha) {
    if (value.numel() == 1 && std::isfinite(value.to_vector()[0])) {
      into.alpha = value.to_vector()[0];
    } else {
      offenders.push_back(concat(key, " has shape ", value.shape(), ", expected one number"));
    }
    return;
  }
  if (!is_floating(value.dtype())) {
    offenders.push_back(concat(key, " has dtype ", dtype_name(value.dtype())));
    return;
  }
  if (!all_finite(value)) offenders.push_back(concat(key, " holds values that are not finite"));
  Tensor& side = parsed.side == AdapterSide::a ? into.pair.a : into.pair.b;
  if (side) offenders.push_back(concat(key, " is there twice, in two spellings"));
  side = value;
}

std::map<std::string, StoredPair> collect(const SafeTensors& file, bool peft_folder,
                                          Offenders& offenders) {
  std::map<std::string, StoredPair> out;
  std::map<std::string_view, std::pair<int, std::string>> foreign;  // method: count, first key
  for (const std::string& key : file.names()) {
    const auto parsed = parse_adapter_key(key);
    const bool known = parsed && (!peft_folder || parsed->side != AdapterSide::alpha) &&
                       resolve_adapter_stem(parsed->stem, peft_folder);
    if (known) {
      take(key, *parsed, file.get(key), out[parsed->stem], offenders);
    } else if (!foreign_method(key).empty()) {
      auto& [count, first] = foreign[foreign_method(key)];
      if (count++ == 0) first = key;
    } else {
      offenders.push_back("unknown key " + key);
    }
  }
  Offenders first;
  for (const auto& [method, keys] : foreign) {
    first.push_back(concat("unknown key ", keys.second,
                           keys.first > 1 ? concat(" and ", keys.first - 1, " like it") : "", ": ",
                           method, " is not supported, only LoRA is"));
  }
  offenders.insert(offenders.begin(), first.begin(), first.end());
  return out;
}

// The part of lora_adapter_metadata that is about the transformer, as PEFT's config.
std::optional<AdapterConfig> header_config(const SafeTensors& file, const std::string& path,
                                           Offenders& offenders) {
  const auto found = file.metadata().find(kMetadata);
  if (found == file.metadata().end()) return std::nullopt;
  using json = nlohmann::ordered_json;
  const std::string where = concat(path, ", ", kMetadata);
  const json all = parse_json<json>(found->second, where);
  CHECK(all.is_object(), where, ": not a JSON object");
  const std::string prefix = "transformer.";
  json own = json::object();
  for (const auto& [key, value] : all.items()) {
    if (key.starts_with(prefix)) own[key.substr(prefix.size())] = value;
  }
  return parse_adapter_config((own.empty() ? all : own).dump(), where, offenders);
}

void place_pair(const std::string& stem, const AdapterStem& resolved, AdapterPair pair,
                AdapterModules& modules, Offenders& offenders) {
  const bool whole = pair.a && pair.b && pair.a.rank() == 2 && pair.b.rank() == 2 &&
                     pair.a.dim(0) == pair.b.dim(1);
  std::vector<std::optional<AdapterPair>> parts{pair};
  if (whole && resolved.modules.size() > 1) {
    try {
      parts = split_fused(pair, resolved.modules.size(), stem);
    } catch (const Error& error) {
      offenders.push_back(error.what());
      return;
    }
  } else if (whole && resolved.swaps_halves && pair.b.dim(0) == 2 * pair.a.dim(1)) {
    parts[0]->b = swap_row_halves(pair.b);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i]) continue;
    const bool added = modules.emplace(resolved.modules[i], *parts[i]).second;
    if (!added) offenders.push_back(concat(stem, ": ", resolved.modules[i], " is there twice"));
  }
}

// A config for factors that came without one.
void describe_stored(const std::string& what, AdapterFile& adapter, Offenders& offenders) {
  for (const auto& [module, pair] : adapter.modules) {
    if (!pair.a || !pair.b) {
      offenders.push_back(concat(module, " has no ", pair.a ? "lora_B (up)" : "lora_A (down)"));
    } else if (pair.a.rank() != 2 || pair.b.rank() != 2) {
      offenders.push_back(concat(module, " has factors ", pair.a.shape(), " and ", pair.b.shape(),
                                 ", expected two dimensions"));
    }
  }
  refuse_all(what, offenders);
  CHECK(!adapter.modules.empty(), what, ": no adapted module");
  AdapterConfig like;
  like.init_lora_weights = "true";
  adapter = describe_adapter(std::move(adapter.modules), like);
}

}  // namespace

OpenedAdapter open_adapter(const fs::path& place) {
  const Place at = locate(place);
  const bool peft = !at.config.empty();
  Offenders offenders;
  std::optional<AdapterConfig> config;
  if (peft) config = parse_adapter_config(read_file(at.config), at.config.string(), offenders);
  const SafeTensors file = SafeTensors::open(at.weights);
  if (!peft) config = header_config(file, at.weights.string(), offenders);
  OpenedAdapter out;
  AdapterModules& modules = out.file.modules;
  bool alphas = false;
  for (auto& [stem, stored] : collect(file, peft, offenders)) {
    const AdapterStem resolved = *resolve_adapter_stem(stem, peft);
    if (!stored.pair.a && !stored.pair.b) {  // of another method, or a leftover
      if (offenders.empty()) offenders.push_back(concat(stem, ".alpha belongs to no factors"));
      continue;
    }
    out.format = resolved.format;
    alphas = alphas || stored.alpha;
    if (stored.alpha && stored.pair.a && stored.pair.a.rank() > 0) {
      stored.pair.scale = *stored.alpha / static_cast<double>(stored.pair.a.dim(0));
    }
    place_pair(stem, resolved, stored.pair, modules, offenders);
  }
  if (alphas && config) {
    offenders.push_back(concat("both alpha keys and ", kMetadata, " give the scales"));
  }
  if (config) {
    out.file.config = *config;
    for (auto& [module, pair] : modules) pair.scale = config->scale_of(module);
  } else {
    describe_stored(place.string(), out.file, offenders);
  }
  check_pairs(place.string(), out.file, offenders);
  return out;
}

AdapterFile read_adapter(const fs::path& place) {
  AdapterFile file = open_adapter(place).file;
  for (auto& [module, pair] : file.modules) {
    for (Tensor* t : {&pair.a, &pair.b}) {
      const Tensor stored = t->contiguous();
      *t = stored.dtype() == DType::f32 ? stored.clone() : stored.to(DType::f32);
    }
  }
  return file;
}

bool looks_like_adapter(const std::vector<std::string>& names) {
  const auto known = [](const std::string& name) {
    const auto key = parse_adapter_key(name);
    return key && (resolve_adapter_stem(key->stem, true) || resolve_adapter_stem(key->stem, false));
  };
  const auto spelt_so = [](const std::string& name) {
    return parse_adapter_key(name) || !foreign_method(name).empty();
  };
  return std::any_of(names.begin(), names.end(), known) ||
         (!names.empty() && std::all_of(names.begin(), names.end(), spelt_so));
}

}  // namespace parlo
