// Draws of a key by position, for kernels that need noise of their own.
#pragma once

#include <cstdint>

#include "tensor/philox.h"

namespace parlo::cpu {

// Elements [first, first + n) of a key's stream; first is a multiple of 4.
void fill_uniform(RandomKey key, int64_t first, float* out, int64_t n);
void fill_normal(RandomKey key, int64_t first, float* out, int64_t n);

}  // namespace parlo::cpu
