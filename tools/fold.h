// Folding adapters into a checkpoint on disk, whatever its architecture: module M changes the
// tensor M.weight. Files and dtypes stay as they are.
#pragma once

#include <filesystem>
#include <span>

#include "lora/merge.h"

namespace parlo {

// `base` is a component's folder or a pipeline's, whose transformer/ is meant then. `out` is
// written under a temporary name and renamed. Throws Error listing all that does not fit.
void fold_checkpoint(const std::filesystem::path& base, std::span<const AdapterFile> files,
                     std::span<const WeightedAdapter> adapters, const std::filesystem::path& out);

}  // namespace parlo
