#include "kernels/add_rms_norm.h"

#include "kernels/elementwise.h"
#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

struct Result {
  Tensor sum, y, rstd;
};

Result run(const Tensor& x, const Tensor& residual, const NormParams& p) {
  Result r{Tensor::empty_like(x), Tensor::empty_like(x), Tensor::empty({x.dim(0)}, x.dtype())};
  cpu::add_rms_norm(x, residual, p, r.sum, r.y, r.rstd);
  return r;
}

}  // namespace

TEST_CASE("add_rms_norm: the bits of an addition and rms_norm, in place of the residual") {
  for (DType dtype : {DType::f32, DType::f64})
    for (bool weighted : {false, true})
      for (int64_t C : {1, 7, 64, 300}) {
        const Tensor x = random_tensor({37, C}, 1, dtype), r = random_tensor({37, C}, 2, dtype);
        NormParams p;
        if (weighted) p.weight = random_tensor({C}, 3, dtype);
        const Result got = run(x, r, p);
        Result want{Tensor::empty_like(x), Tensor::empty_like(x), Tensor::empty({37}, dtype)};
        cpu::binary(Binary::add, x, r, want.sum);
        cpu::rms_norm(want.sum, p, want.y, want.rstd);
        CHECK(same_bits(got.sum, want.sum));
        CHECK(same_bits(got.y, want.y));
        CHECK(same_bits(got.rstd, want.rstd));
        const Tensor over = r.clone();
        cpu::add_rms_norm(x, over, p, over, want.y, want.rstd);
        CHECK(same_bits(over, got.sum));
        CHECK(same_bits(want.y, got.y));
      }
}

TEST_CASE("add_rms_norm: gradients against finite differences") {
  const Tensor x = random_tensor({3, 7}, 1, DType::f64), r = random_tensor({3, 7}, 2, DType::f64);
  const Tensor dy = random_tensor({3, 7}, 3, DType::f64),
               dsum = random_tensor({3, 7}, 4, DType::f64);
  const NormParams p{random_tensor({7}, 5, DType::f64), {}, {}, {}, 1e-3};
  for (bool goes_on : {false, true}) {
    const Result f = run(x, r, p);
    const Tensor dx = Tensor::empty_like(x), dw = Tensor::empty({7}, DType::f64);
    cpu::add_rms_norm_backward(f.sum, p, f.rstd, dy, goes_on ? dsum : Tensor(), dx, dw);
    const auto loss = [&] {
      const Result m = run(x, r, p);
      return weighted_sum(m.y, dy) + (goes_on ? weighted_sum(m.sum, dsum) : 0);
    };
    check_close(dx, numeric_gradient(x, loss), 1e-7);
    check_close(dx, numeric_gradient(r, loss), 1e-7);
    check_close(dw, numeric_gradient(p.weight, loss), 1e-7);
    const Tensor alone = Tensor::empty_like(dx);
    cpu::add_rms_norm_backward(f.sum, p, f.rstd, dy, goes_on ? dsum : Tensor(), alone, {});
    CHECK(same_bits(alone, dx));
  }
}

TEST_CASE("add_rms_norm: threads, nothing, and what it refuses") {
  const Tensor x = random_tensor({300, 517}, 1), r = random_tensor({300, 517}, 2);
  const NormParams p{random_tensor({517}, 3), {}, {}, {}, 1e-6};
  check_thread_counts([&] {
    const Result f = run(x, r, p);
    const Tensor dx = Tensor::empty_like(x), dw = Tensor::empty({517});
    cpu::add_rms_norm_backward(f.sum, p, f.rstd, r, x, dx, dw);
    return std::vector<Tensor>{f.sum, f.y, f.rstd, dx, dw};
  });
  const Tensor none = Tensor::empty({0, 517}), dw = random_tensor({517}, 4);
  run(none, none, p);
  cpu::add_rms_norm_backward(none, p, {}, none, none, none, dw);
  CHECK(same_values(dw, Tensor::zeros({517})));
  CHECK(contains(message_of([&] { run(x, r.slice(0, 0, 2), p); }), "add_rms_norm: residual"));
  CHECK(contains(message_of([&] { run(x, r, {dw.slice(0, 0, 5), {}, {}, {}, 0}); }), "weight"));
}
