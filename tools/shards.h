// The weights of a model folder in the form that the reference library loads: one file, or shards
// with an index. Tensors are made one after another, so a folder may be larger than the memory.
#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "tensor/safetensors_stream.h"

namespace parlo {

// Gives a tensor of the planned dtype and shape.
using MakeTensor = std::function<Tensor(const std::string& name)>;

// BASE.safetensors or, where that would be more than `limit` bytes (0: no limit),
// BASE-00001-of-0000N.safetensors of at most as many (a larger tensor has its own) and
// BASE.safetensors.index.json. The tensors keep their order, except within a file.
void stream_shards(const std::filesystem::path& folder, const std::string& base,
                   const std::vector<PlannedTensor>& tensors, const MakeTensor& make, size_t limit);

}  // namespace parlo
