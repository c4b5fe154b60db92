#include "lora/adapter_keys.h"

#include "models/original_names.h"

namespace parlo {
namespace {

struct Suffix {
  std::string_view text;
  AdapterSide side;
};
constexpr Suffix kSuffixes[] = {
    {".lora_A.weight", AdapterSide::a},
    {".lora_B.weight", AdapterSide::b},
    {".lora_down.weight", AdapterSide::a},
    {".lora_up.weight", AdapterSide::b},
    {".lora.down.weight", AdapterSide::a},  // diffusers before it used PEFT
    {".lora.up.weight", AdapterSide::b},
    {".lora_linear_layer.down.weight", AdapterSide::a},
    {".lora_linear_layer.up.weight", AdapterSide::b},
    {".lora_A.default.weight", AdapterSide::a},  // a PEFT model's own state
    {".lora_B.default.weight", AdapterSide::b},
    {".alpha", AdapterSide::alpha},
};

struct Prefix {
  std::string_view text;
  Spelling spelling;
  bool original_first;  // which names to look for first
};
constexpr Prefix kPrefixes[] = {
    {"lora_unet_", Spelling::flat, true},          // kohya
    {"lora_transformer_", Spelling::flat, false},  // OneTrainer
    {"lycoris_", Spelling::flat, false},
    {"diffusion_model.", Spelling::dotted, true},  // ComfyUI
    {"transformer.", Spelling::dotted, false},     // diffusers
    {"", Spelling::dotted, false},
};

constexpr std::string_view kPeftPrefix = "base_model.model.";

std::optional<AdapterStem> find(std::string_view name, Spelling spelling, bool original) {
  const bool flat = spelling == Spelling::flat;
  if (original) {
    const auto found = find_original(name, spelling);
    if (!found) return std::nullopt;
    return AdapterStem{found->modules, found->swaps_halves,
                       flat ? AdapterFormat::kohya : AdapterFormat::original};
  }
  const auto found = find_diffusers(name, spelling);
  if (!found) return std::nullopt;
  return AdapterStem{{*found}, false, flat ? AdapterFormat::kohya : AdapterFormat::diffusers};
}

}  // namespace

std::optional<AdapterKey> parse_adapter_key(const std::string& key) {
  for (const Suffix& suffix : kSuffixes) {
    if (key.size() <= suffix.text.size() || !key.ends_with(suffix.text)) continue;
    return AdapterKey{key.substr(0, key.size() - suffix.text.size()), suffix.side};
  }
  return std::nullopt;
}

std::optional<AdapterStem> resolve_adapter_stem(const std::string& stem, bool peft_folder) {
  if (peft_folder) {
    if (!stem.starts_with(kPeftPrefix) || stem.size() == kPeftPrefix.size()) return std::nullopt;
    return AdapterStem{{stem.substr(kPeftPrefix.size())}, false, AdapterFormat::peft};
  }
  for (const Prefix& prefix : kPrefixes) {
    if (!stem.starts_with(prefix.text)) continue;
    const std::string_view name = std::string_view(stem).substr(prefix.text.size());
    for (bool original : {prefix.original_first, !prefix.original_first}) {
      if (auto found = find(name, prefix.spelling, original)) return found;
    }
    return std::nullopt;
  }
  return std::nullopt;
}

std::string_view foreign_method(const std::string& key) {
  struct Method {
    std::string_view part, name;
  };
  static constexpr Method kMethods[] = {
      {"lora_magnitude_vector", "DoRA (lora_magnitude_vector)"},
      {"dora_scale", "DoRA (dora_scale)"},
      {"hada_", "LoHa (hada_*)"},
      {"lokr_", "LoKr (lokr_*)"},
      {"lora_mid", "LoCon with a Tucker core (lora_mid)"},
      {"oft_", "OFT (oft_*)"},
      {"lora_embedding_", "an embedding's LoRA (lora_embedding)"},
      {"lora_bias", "a LoRA with biases (lora_bias)"},
      {"lora_te", "a text encoder's LoRA (lora_te)"},
      {"text_encoder", "a text encoder's LoRA (text_encoder)"},
      {".processor.", "XLabs' attention processors (processor)"},
  };
  if (key.ends_with(".diff") || key.ends_with(".diff_b")) return "stored differences (diff)";
  for (const Method& method : kMethods) {
    if (key.find(method.part) != std::string::npos) return method.name;
  }
  return "";
}

}  // namespace parlo
