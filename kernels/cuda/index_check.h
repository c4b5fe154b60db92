// Indices in device memory, checked as the CPU does.
#pragma once

#include <optional>
#include <string_view>

#include "tensor/tensor.h"

namespace parlo::cuda {

struct BadIndex {
  int64_t position, value;
};

// The first of the i64 values outside [0, limit) that is not `ignored`. Waits for the device; while
// a graph is captured, when that is not possible, there is none: kernels give NaN for a bad index.
std::optional<BadIndex> find_bad_index(const Tensor& index, int64_t limit,
                                       std::optional<int64_t> ignored = {});

}  // namespace parlo::cuda
