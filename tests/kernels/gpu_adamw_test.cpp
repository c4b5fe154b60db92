#include "kernels/adamw.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

const AdamWStep kStep{1e-2, 0.9, 0.95, 1e-8, 0.1, 0.5, 3};

AdamWTensor random_state(int64_t n, uint32_t seed) {
  const Tensor v = random_tensor({n}, seed, DType::f32, 0.1);
  for (float& x : v.span<float>()) x *= x;
  return {random_tensor({n}, seed + 1), random_tensor({n}, seed + 2),
          random_tensor({n}, seed + 3, DType::f32, 0.1), v, random_tensor({n}, seed + 4)};
}

template <class Move>
AdamWTensor moved(const AdamWTensor& t, Move move) {
  return {move(t.param), move(t.grad), move(t.m), move(t.v), move(t.average)};
}
AdamWTensor to_gpu(const AdamWTensor& t) {
  return moved(t, on_gpu);
}

void check_state(const AdamWTensor& got, const AdamWTensor& want, double limit) {
  check_close(got.param, want.param, limit);
  check_close(got.m, want.m, limit);
  check_close(got.v, want.v, limit);
  if (want.average) check_close(got.average, want.average, limit);
}

}  // namespace

TEST_CASE("gpu: adamw and ema of one tensor, aligned or not") {
  for (const int64_t n : {0, 1, 5, 1000, 8192, 20001}) {
    INFO(n, " elements");
    const AdamWTensor start = random_state(n, 1);
    const AdamWTensor want = moved(start, [](const Tensor& t) { return t.to(DType::f64); });
    const AdamWTensor got = to_gpu(start), other = moved(to_gpu(start), shifted);
    AdamWStep step = kStep;
    for (; step.step < 6; ++step.step) {
      cpu::adamw(want.param, want.grad, want.m, want.v, step);
      cuda::adamw(got.param, got.grad, got.m, got.v, step);
      cuda::adamw(other.param, other.grad, other.m, other.v, step);
    }
    cpu::ema(want.average, want.param, 0.75);
    cuda::ema(got.average, got.param, 0.75);
    cuda::ema(other.average, other.param, 0.75);
    check_state(got, want, 2e-6);
    CHECK(same_gpu_bits(got.param, other.param));
    CHECK(same_gpu_bits(got.average, other.average));
    // The CPU's f32 kernel does the same operations.
    cpu::adamw(start.param, start.grad, start.m, start.v, kStep);
    const AdamWTensor again = to_gpu(random_state(n, 1));
    cuda::adamw(again.param, again.grad, again.m, again.v, kStep);
    CHECK(same_bits(again.param.to(Device{}), start.param));
    const Tensor equal = got.param.clone();
    cuda::ema(equal, got.param, 0.9);
    CHECK(same_gpu_bits(equal, got.param));
  }
}

TEST_CASE("gpu: many tensors in one launch") {
  std::vector<AdamWTensor> want, got;
  uint32_t seed = 1;
  for (const int64_t n : {5, 0, 8192, 8193, 1, 30000, 7}) {
    const AdamWTensor t = random_state(n, seed += 10);
    want.push_back(moved(t, [](const Tensor& x) { return x.to(DType::f64); }));
    got.push_back(moved(to_gpu(t), [](const Tensor& x) { return x.clone(); }));
  }
  want[0].average = got[0].average = Tensor();
  want[3].grad = got[3].grad = Tensor();
  got[5] = moved(got[5], shifted);
  const double squares = cpu::grad_squares(want);
  CHECK(std::abs(cuda::grad_squares(got) - squares) <= 1e-6 * squares);
  CHECK(cuda::grad_squares(got) == cuda::grad_squares(got));
  cpu::adamw_all(want, kStep, 0.75);
  cuda::adamw_all(got, kStep, 0.75);
  for (size_t i = 0; i < got.size(); ++i) {
    CAPTURE(i);
    check_state(got[i], want[i], 2e-6);
  }
  CHECK(cuda::grad_squares({}) == 0);
  const Tensor two = on_gpu(Tensor::full({3}, 2));  // a norm needs no moments
  CHECK(cuda::grad_squares(std::vector<AdamWTensor>{{two, two, {}, {}, {}}}) == 12);
  cuda::adamw_all({}, kStep, 0.75);
}

TEST_CASE("gpu: more tensors than one launch takes") {
  std::vector<AdamWTensor> want, got;
  for (uint32_t k = 0; k < 130; ++k) {
    const AdamWTensor t = random_state(k % 64 == 0 || k == 63 ? 0 : k, 10 * k);
    want.push_back(moved(t, [](const Tensor& x) { return x.to(DType::f64); }));
    got.push_back(to_gpu(t));
  }
  const double squares = cpu::grad_squares(want);
  CHECK(std::abs(cuda::grad_squares(got) - squares) <= 1e-6 * squares);
  cpu::adamw_all(want, kStep, 0.75);
  cuda::adamw_all(got, kStep, 0.75);
  for (size_t i = 0; i < got.size(); ++i) check_state(got[i], want[i], 2e-6);
  // Nothing moves where one of them does not fit.
  const Tensor before = got[1].param.clone();
  got.back().m = Tensor::zeros({1}, DType::f32, kGpu);
  CHECK(contains(message_of([&] { cuda::adamw_all(got, kStep, 0.75); }), "adamw: m has shape"));
  CHECK(same_gpu_bits(got[1].param, before));
}

TEST_CASE("gpu: adamw keeps a decay too small for 1 - lr wd, and NaN") {
  const auto one = [](double x) { return Tensor::full({1}, x, DType::f32, kGpu); };
  const Tensor p = one(1);
  cuda::adamw(p, one(0), one(0.9), one(1), {3e-4, 0.9, 0.999, 0, 1e-4, 1, 1000000});
  CHECK(std::abs(p.item() - (1 - 3e-4 * (1e-4 + 0.81 / std::sqrt(0.999)))) <= 3.1e-8);
  cuda::adamw(p, one(std::nan("")), one(0), one(0), kStep);
  CHECK(std::isnan(p.item()));
}

TEST_CASE("gpu: adamw of what does not fit is refused") {
  const Tensor x = gpu_output({4}), half = gpu_output({4}, DType::bf16);
  const auto message = [](const AdamWTensor& t, AdamWStep step = {}) {
    return message_of([&] { cuda::adamw(t.param, t.grad, t.m, t.v, step); });
  };
  CHECK(contains(message({x, x, x, gpu_output({3}), {}}), "adamw: v has shape"));
  CHECK(contains(message({half, half, half, half, {}}), "expected f32"));
  CHECK(contains(message({x, x, x, Tensor::zeros({4}), {}}), "operands lie on"));
  AdamWStep zero;
  zero.step = 0;
  CHECK(contains(message({x, x, x, x, {}}, zero), "step counts from 1"));
  CHECK(contains(message_of([&] { cuda::ema({}, x, 0.5); }), "average is missing"));
  const std::vector<AdamWTensor> mixed = {{x, x, x, x, {}}, {x, x, Tensor::zeros({4}), x, {}}};
  CHECK(contains(message_of([&] { cuda::adamw_all(mixed, {}, 0.5); }), "operands lie on"));
}

}  // namespace parlo::test
