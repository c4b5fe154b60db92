// What a key of an adapter's file says: which linears, which factor, in whose spelling.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lora/formats.h"

namespace parlo {

enum class AdapterSide { a, b, alpha };

struct AdapterKey {
  std::string stem;  // the key without what names the factor
  AdapterSide side = AdapterSide::a;
};

// "X.lora_A.weight", "X.lora_down.weight", "X.alpha"...; nothing when the key has another form.
std::optional<AdapterKey> parse_adapter_key(const std::string& key);

struct AdapterStem {
  std::vector<std::string> modules;  // several where the file has one fused linear
  bool swaps_halves = false;
  AdapterFormat format = AdapterFormat::peft;
};

// The linears of a stem, by its prefix and the families' names; nothing when they are unknown. In
// a PEFT folder every name behind the prefix is one.
std::optional<AdapterStem> resolve_adapter_stem(const std::string& stem, bool peft_folder);

// The method that a key belongs to when it is one that parlo does not have, e.g. "DoRA".
std::string_view foreign_method(const std::string& key);

}  // namespace parlo
