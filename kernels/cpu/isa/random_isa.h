// Elements [first, first + n) of a key's stream, first a multiple of 4 (kernels/random.h). The
// same bits on every instruction set: runs can be repeated on another machine.
#pragma once

#include <cstdint>

namespace parlo::cpu {

struct RandomIsa {
  void (*uniform)(uint64_t key, uint64_t first, float* out, int64_t n);
  void (*normal)(uint64_t key, uint64_t first, float* out, int64_t n);
};
extern const RandomIsa random_avx2, random_avx512;

}  // namespace parlo::cpu
