// The op on a GPU against the op on the CPU.
#include "autograd/ops.h"
#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

struct Result {
  Tensor log_prob, entropy, dx, dw;
};

// Gradients of 2 sum(log_prob) - sum(entropy).
Result run(const Tensor& x, const Tensor& w, const Tensor& targets) {
  const Var vx(x, true), vw(w, true);
  const LogProbs y = linear_log_prob(vx, vw, targets, {.temperature = 0.9});
  backward(sub(affine(sum(y.log_prob), 2), sum(y.entropy)));
  return {y.log_prob.value(), y.entropy.value(), vx.grad(), vw.grad()};
}

}  // namespace

TEST_CASE("gpu: linear_log_prob and its gradients") {
  const Tensor targets = Tensor::from<int64_t>({3, 0, -100, 8, 8, 1}, {2, 3});
  for (const DType dtype : kGpuTypes) {
    const GpuInput x({2, 3, 16}, 1, dtype), w({9, 16}, 2, dtype);
    const Result got = run(x.gpu, w.gpu, targets),
                 expected = run(x.reference, w.reference, targets);
    CHECK(got.dx.dtype() == dtype);
    CHECK(got.dw.dtype() == dtype);
    check_close(got.log_prob, expected.log_prob);
    check_close(got.entropy, expected.entropy);
    check_close(got.dx, expected.dx);
    check_close(got.dw, expected.dw);
  }
}

}  // namespace parlo::test
