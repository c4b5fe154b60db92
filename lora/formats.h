// Adapters in every spelling that is in use, from and to files. Inside parlo an adapter always has
// diffusers' module names and a scale per module (lora/peft.h).
//
//   peft       folder: adapter_config.json, adapter_model.safetensors; base_model.model.M.lora_A
//   diffusers  pytorch_lora_weights.safetensors: transformer.M.lora_A; scale from `.alpha` keys,
//              or from the header's lora_adapter_metadata, or 1
//   kohya      one file: lora_unet_ORIGINAL_NAME.lora_down; scale alpha / r, alpha = r if missing
//   original   one file, as ComfyUI reads it: diffusion_model.ORIGINAL.NAME.lora_A, .alpha
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "lora/peft.h"
#include "models/original_names.h"

namespace parlo {

enum class AdapterFormat { peft, diffusers, kohya, original };
inline constexpr AdapterFormat kAdapterFormats[] = {AdapterFormat::peft, AdapterFormat::diffusers,
                                                    AdapterFormat::kohya, AdapterFormat::original};
std::string_view format_name(AdapterFormat format);

struct OpenedAdapter {
  AdapterFile file;
  AdapterFormat format = AdapterFormat::peft;
};

// Finds out the format of a file or folder and reads it. The factors keep their dtype and are
// read-only views of the mapped file where they can be: nothing is in memory before it is used.
// Throws Error listing all unknown keys, with the method's name where it is another one (DoRA,
// LoHa, LoKr...), and all other offenders, as read_adapter does.
OpenedAdapter open_adapter(const std::filesystem::path& place);

// Whether a file's names look like an adapter's, readable or not.
bool looks_like_adapter(const std::vector<std::string>& names);

// The first family whose original names cover the modules and whose attention has their width
// (1536 and 2432: SD3; 3072: FLUX and HunyuanVideo), or that covers them at all: small adapters fit
// several, so say which one was taken. Throws Error listing the modules that no family has.
ModelFamily guess_family(const AdapterModules& modules);

// Atomic; equal input gives equal bytes. `place` is a folder for peft, a .safetensors file or a
// folder for diffusers, a .safetensors file else. `family` (guessed if missing) is whose original
// names to write. Throws Error listing every module that has none.
void write_adapter_as(AdapterFormat format, const std::filesystem::path& place,
                      const AdapterFile& adapter, std::optional<ModelFamily> family = {});

}  // namespace parlo
