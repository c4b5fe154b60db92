#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "lora/adapter_checks.h"
#include "lora/formats.h"
#include "lora/fused.h"
#include "lora/peft_config.h"
#include "tensor/error.h"
#include "tensor/safetensors.h"

namespace parlo {
namespace fs = std::filesystem;

namespace {

// Modules without an original name in the family.
std::vector<std::string> missing_names(ModelFamily family, const AdapterModules& modules) {
  std::vector<std::string> out;
  for (const auto& [module, pair] : modules) {
    if (!original_of(family, module)) out.push_back(module);
  }
  return out;
}

// SD3 is 64 wide per block; the two widths in use are those of SD3(.5)-Medium and Large.
bool width_fits(ModelFamily family, const AdapterModules& modules) {
  std::set<int64_t> widths;
  for (const auto& [module, pair] : modules) {
    if (module.find(".attn.to_") != std::string::npos) widths.insert(pair.b.dim(0));
  }
  if (family == ModelFamily::sd3) return widths.count(1536) + widths.count(2432) > 0;
  return widths.count(3072) > 0;
}

// f32 where it holds the number, as other writers do it.
Tensor alpha_tensor(double alpha) {
  const auto narrow = static_cast<float>(alpha);
  if (static_cast<double>(narrow) == alpha) return Tensor::from(std::vector<float>{narrow}, {});
  return Tensor::from(std::vector<double>{alpha}, {});
}

void add_original(const OriginalLinear& original, const AdapterModules& modules,
                  AdapterFormat format, NamedTensors& out) {
  std::vector<const AdapterPair*> parts;
  for (const std::string& module : original.modules) {
    const auto found = modules.find(module);
    parts.push_back(found == modules.end() ? nullptr : &found->second);
  }
  AdapterPair pair = parts.size() == 1 ? *parts[0] : fuse_parts(parts);
  if (original.swaps_halves && pair.b.dim(0) == 2 * pair.a.dim(1)) pair.b = swap_row_halves(pair.b);
  const bool kohya = format == AdapterFormat::kohya;
  std::string name = original.name;
  if (kohya) std::replace(name.begin(), name.end(), '.', '_');
  name = (kohya ? "lora_unet_" : "diffusion_model.") + name;
  out.emplace_back(name + (kohya ? ".lora_down.weight" : ".lora_A.weight"), pair.a);
  out.emplace_back(name + (kohya ? ".lora_up.weight" : ".lora_B.weight"), pair.b);
  const double alpha = pair.scale * static_cast<double>(pair.a.dim(0));
  out.emplace_back(name + ".alpha", alpha_tensor(alpha));
}

void write_original(AdapterFormat format, const fs::path& file, const AdapterFile& adapter,
                    ModelFamily family) {
  std::vector<std::string> offenders;
  for (const std::string& module : missing_names(family, adapter.modules)) {
    offenders.push_back(concat(module, " has no original name in ", family_name(family)));
  }
  check_pairs(concat("cannot write ", file.string()), adapter, offenders);
  NamedTensors tensors;
  std::set<std::string> done;
  for (const auto& [module, pair] : adapter.modules) {
    const OriginalLinear original = *original_of(family, module);
    if (!done.insert(original.name).second) continue;
    add_original(original, adapter.modules, format, tensors);
  }
  save_safetensors(file, std::move(tensors), {{"format", "pt"}});
}

void write_diffusers(fs::path place, const AdapterFile& adapter) {
  check_pairs(concat("cannot write ", place.string()), adapter, {});
  NamedTensors tensors;
  for (const auto& [module, pair] : adapter.modules) {
    tensors.emplace_back(concat("transformer.", module, ".lora_A.weight"), pair.a);
    tensors.emplace_back(concat("transformer.", module, ".lora_B.weight"), pair.b);
  }
  using json = nlohmann::ordered_json;
  json metadata = json::object();
  const json config = json::parse(adapter_config_json(adapter.config));
  for (const auto& [key, value] : config.items()) metadata["transformer." + key] = value;
  if (place.extension() != ".safetensors") {
    make_folders(place);
    place /= "pytorch_lora_weights.safetensors";
  }
  save_safetensors(place, std::move(tensors),
                   {{"format", "pt"}, {"lora_adapter_metadata", metadata.dump(2)}});
}

}  // namespace

std::string_view format_name(AdapterFormat format) {
  switch (format) {
    case AdapterFormat::peft:
      return "peft";
    case AdapterFormat::diffusers:
      return "diffusers";
    case AdapterFormat::kohya:
      return "kohya";
    case AdapterFormat::original:
      return "original";
  }
  return "";
}

ModelFamily guess_family(const AdapterModules& modules) {
  std::optional<ModelFamily> covering;
  for (ModelFamily family : kModelFamilies) {
    if (!missing_names(family, modules).empty()) continue;
    if (width_fits(family, modules)) return family;
    if (!covering) covering = family;
  }
  if (covering) return *covering;
  std::vector<std::string> offenders;
  for (const auto& [module, pair] : modules) {
    if (!find_diffusers(module, Spelling::dotted)) offenders.push_back(module);
  }
  refuse_all("no model's original names are known for", offenders);
  throw UsageError("the adapter's modules are of several models; give --family");
}

void write_adapter_as(AdapterFormat format, const fs::path& place, const AdapterFile& adapter,
                      std::optional<ModelFamily> family) {
  if (format == AdapterFormat::peft) return write_adapter(place, adapter);
  if (format == AdapterFormat::diffusers) return write_diffusers(place, adapter);
  CHECK(place.extension() == ".safetensors", place.string(), ": a file of format ",
        format_name(format), " needs the extension .safetensors");
  write_original(format, place, adapter, family ? *family : guess_family(adapter.modules));
}

}  // namespace parlo
