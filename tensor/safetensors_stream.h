// Writing a safetensors file whose tensors are made one after another, so that a file may be larger
// than the memory.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace parlo {

struct PlannedTensor {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;

  size_t bytes() const { return static_cast<size_t>(shape.numel()) * dtype_size(dtype); }
};

// Atomic; the same bytes as save_safetensors. `make` is called once per tensor, in the file's order
// (wider elements first, then by name), and must give the planned dtype and shape, else Error.
void stream_safetensors(const std::filesystem::path& file, std::vector<PlannedTensor> plan,
                        const std::function<Tensor(const std::string& name)>& make,
                        const std::map<std::string, std::string>& metadata = {});

}  // namespace parlo
