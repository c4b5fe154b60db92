// Checks of skinny_linear's operands, the same on every device.
#pragma once

#include "kernels/matmul_checks.h"
#include "kernels/skinny.h"

namespace parlo {

inline void check_skinny(const Tensor& x, const Tensor& w, const Tensor& y,
                         const LinearArgs& args) {
  CHECK(!args.pre_activation && !args.gate.values && args.low_rank_rows.empty(),
        "skinny_linear: takes no pre_activation, gate or low_rank_rows; use linear");
  check_linear(x, w, y, args);
}

}  // namespace parlo
