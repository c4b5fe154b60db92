// adapter_config.json as text; used by lora/peft.cpp.
#pragma once

#include <string>
#include <vector>

#include "lora/peft.h"

namespace parlo {

// Fields that would change what the tensors mean are added to `offenders`; broken JSON or a field
// of the wrong type throws Error naming `file`.
AdapterConfig parse_adapter_config(const std::string& text, const std::string& file,
                                   std::vector<std::string>& offenders);

std::string adapter_config_json(const AdapterConfig& config);

}  // namespace parlo
