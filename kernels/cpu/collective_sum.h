// Sums over ranks, element by element in the order of the ranks.
#pragma once

#include <span>

#include "tensor/dtype.h"

namespace parlo::cpu {

// out[i] = parts[0][i] + parts[1][i] + ...: f32 and f64 as they are, bf16 in f32 and rounded once,
// i64 modulo 2^64. `out` may be one of the parts.
void sum_parts(DType dtype, std::span<const std::byte* const> parts, std::byte* out, size_t bytes);

}  // namespace parlo::cpu
