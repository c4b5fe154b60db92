// linear's order of sums does not depend on the rows: on the CPU it serves for few of them as well.
#include "kernels/skinny.h"

#include "kernels/skinny_checks.h"

namespace parlo::cpu {

void skinny_linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  check_skinny(x, w, y, args);
  linear(x, w, y, args);
}

}  // namespace parlo::cpu
