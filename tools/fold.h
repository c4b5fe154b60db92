// Folding adapters into a checkpoint on disk, whatever its architecture: module M changes the
// tensor M.weight. Tensors go through one by one, dtypes stay as they are.
#pragma once

#include <filesystem>
#include <functional>
#include <span>

#include "lora/peft.h"

namespace parlo {

// The new weight of a module.
using FoldWeight = std::function<Tensor(const std::string& module, const Tensor& weight)>;

// `base` is a component's folder or a pipeline's, whose transformer/ is meant then; `fold` is asked
// for every module that one of the adapters has. The files stay as they are divided; with
// `shard_bytes` the weights become BASE-00001-of-0000N.safetensors of at most that size (a larger
// tensor has its own) and BASE.safetensors.index.json, or one BASE.safetensors. `out` is written
// under a temporary name and renamed. Throws Error listing all that does not fit.
void fold_checkpoint(const std::filesystem::path& base, std::span<const AdapterFile> adapters,
                     const FoldWeight& fold, const std::filesystem::path& out,
                     size_t shard_bytes = 0);

}  // namespace parlo
