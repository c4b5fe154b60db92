// Checks shared by the readers and writers of adapters; not for anyone else.
#pragma once

#include <string>
#include <vector>

#include "lora/peft.h"

namespace parlo {

// Throws Error with every offender in one line; a broken file may have thousands, of which the
// first are shown and the others counted.
void refuse_all(const std::string& what, const std::vector<std::string>& offenders);

// Pairs that are no pairs, do not fit the config, or are none of its targets.
void check_pairs(const std::string& what, const AdapterFile& adapter,
                 std::vector<std::string> offenders);

}  // namespace parlo
