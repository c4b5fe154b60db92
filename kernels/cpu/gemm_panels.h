// How the columns of a product are cut into panels of whole registers.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/cpu/isa/gemm_isa.h"

namespace parlo::cpu {

inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Panels of max_vecs registers, the last few one less, so that none is left with a single one
// unless n fits in one.
struct Panels {
  int lanes = 1, max_vecs = 1;
  int64_t vecs = 0, count = 0, full = 0;

  Panels(const GemmIsa& isa, int64_t n)
      : lanes(isa.lanes), max_vecs(isa.max_vecs), vecs(ceil_div(n, isa.lanes)) {
    count = ceil_div(vecs, max_vecs);
    full = std::max<int64_t>(0, count - (count * max_vecs - vecs));
  }
  int width_vecs(int64_t p) const {
    return static_cast<int>(vecs == 1 ? 1 : p < full ? max_vecs : max_vecs - 1);
  }
  int64_t begin(int64_t p) const {
    return lanes * (std::min(p, full) * max_vecs + std::max<int64_t>(0, p - full) * (max_vecs - 1));
  }
  int64_t width(int64_t p) const { return int64_t{lanes} * width_vecs(p); }
  int64_t padded() const { return lanes * vecs; }
};

}  // namespace parlo::cpu
