// linear into both halves, then glu of them.
#include "kernels/glu_linear.h"

#include "kernels/glu.h"
#include "kernels/glu_linear_checks.h"

namespace parlo::cpu {

void glu_linear(Activation f, const Tensor& x, const Tensor& w, const Tensor& y,
                const GluLinearArgs& args) {
  check_glu_linear(x, w, y, args);
  const Tensor halves = args.halves ? args.halves : Tensor::empty({x.dim(0), w.dim(0)}, x.dtype());
  linear(x, w, halves, linear_args_of(args));
  glu(f, glu_half(halves, 0), glu_half(halves, 1), y);
}

}  // namespace parlo::cpu
