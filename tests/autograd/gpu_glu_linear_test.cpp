// The op on a GPU against the op on the CPU in f64.
#include "autograd/ops.h"
#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

// y, then the gradients of all inputs: x, w, bias, and a and b of one adapter for rows 1 .. 3 of 6.
std::vector<Tensor> run(const std::vector<Tensor>& in, const Tensor& dy) {
  std::vector<Var> v;
  for (const Tensor& t : in) v.emplace_back(t, true);
  const LowRankRowsVar rows[] = {{1, 3, {v[3], v[4], 0.5}}};
  LinearExtras extras;
  extras.low_rank_rows = rows;
  const Var y = glu_linear(Activation::silu, v[0], v[1], v[2], extras);
  backward(y, dy);
  std::vector<Tensor> results{y.value()};
  for (const Var& x : v) results.push_back(x.grad());
  return results;
}

}  // namespace

TEST_CASE("gpu: glu_linear and its gradients, trained weights in f32") {
  for (const DType dtype : kGpuTypes) {
    const GpuInput x({2, 3, 16}, 1, dtype), w({48, 16}, 2, dtype, 0.3), bias({48}, 3, dtype),
        a({8, 16}, 4, dtype, 0.3), b({48, 8}, 5, dtype, 0.3), dy({2, 3, 24}, 6, dtype);
    std::vector<Tensor> given, references;
    for (const GpuInput* t : {&x, &w, &bias, &a, &b}) {
      given.push_back(t == &x ? t->gpu : t->gpu.to(DType::f32));
      references.push_back(t->reference);
    }
    const std::vector<Tensor> got = run(given, dy.gpu), want = run(references, dy.reference);
    for (size_t i = 0; i < want.size(); ++i) {
      INFO(dtype_name(dtype), ", result ", i);
      check_close(got[i], want[i], tolerance(dtype));
      if (i > 1) CHECK(got[i].dtype() == DType::f32);
    }
    const NoGrad off;  // keeps no halves
    const LowRankRowsVar rows[] = {{1, 3, {Var(given[3]), Var(given[4]), 0.5}}};
    LinearExtras extras;
    extras.low_rank_rows = rows;
    const Var y = glu_linear(Activation::silu, Var(given[0]), Var(given[1]), Var(given[2]), extras);
    CHECK(same_values(y.value(), got[0]));
  }
}

}  // namespace parlo::test
