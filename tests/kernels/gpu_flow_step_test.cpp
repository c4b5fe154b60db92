#include "kernels/flow_step.h"

#include "kernels/elementwise.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

// One value, one thread block and less, many; whole packs and not.
const int64_t kSizes[] = {1, 7, 64, 1000, 4097, 16384, 20001};
const FlowNoise kNoisy[] = {FlowNoise::sde, FlowNoise::cps, FlowNoise::dance};

FlowCoefficients mid_step(FlowNoise noise) {
  return flow_coefficients(noise, 0.6, 0.45, 0.5, 0.9);
}

std::vector<RandomKey> keys_of(int64_t B) {
  std::vector<RandomKey> keys;
  for (int64_t b = 0; b < B; ++b) keys.push_back(RandomKey(5).fold(static_cast<uint64_t>(b)));
  return keys;
}

struct Step {
  GpuInput x, v;
  Tensor next, log_prob, mean;

  Step(const FlowCoefficients& c, int64_t B, int64_t D, DType dtype)
      : x({B, D}, 1, dtype), v({B, D}, 2, dtype) {
    next = gpu_output({B, D}, dtype), mean = gpu_output({B, D}, dtype);
    log_prob = gpu_output({B});
    cuda::flow_step(c, x.gpu, v.gpu, keys_of(B).data(), next, log_prob, mean);
  }
};

struct Loss {
  Tensor loss, ratio, kl, dv;

  Loss(const Shape& shape, DType dtype)
      : loss(gpu_output({shape[0]})),
        ratio(gpu_output({shape[0]})),
        kl(gpu_output({shape[0]})),
        dv(gpu_output(shape, dtype)) {}
};

Loss loss_of(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
             const Tensor& old, const Tensor& advantage, const Tensor& v_ref,
             const FlowLossArgs& args) {
  Loss l(x.shape(), x.dtype());
  cuda::flow_loss(c, x, v, next, old, advantage, v_ref, args, l.loss, l.ratio, l.kl, l.dv);
  return l;
}

Tensor row(const Tensor& t, int64_t b) {
  return t.slice(0, b, b + 1);
}

}  // namespace

TEST_CASE("gpu: the step and its log-probability, from the CPU's noise") {
  for (const DType dtype : kGpuTypes) {
    for (const FlowNoise noise :
         {FlowNoise::ode, FlowNoise::sde, FlowNoise::cps, FlowNoise::dance}) {
      for (const int64_t D : kSizes) {
        INFO("noise ", static_cast<int>(noise), ", D ", D, ", ", dtype_name(dtype));
        const FlowCoefficients c = mid_step(noise);
        const Step s(c, 2, D, dtype);
        const Tensor next = Tensor::empty({2, D}, DType::f64), mean = Tensor::empty_like(next);
        const Tensor log_prob = Tensor::empty({2}, DType::f64), stored = gpu_output({2});
        cpu::flow_step(c, s.x.reference, s.v.reference, keys_of(2).data(), next, log_prob, mean);
        check_close(s.next, next);
        check_close(s.mean, mean);
        // The log-probability is that of next as stored.
        cpu::flow_log_prob(c, s.x.reference, s.v.reference, s.next.to(Device{}).to(DType::f64),
                           log_prob);
        check_close(s.log_prob, log_prob, tolerance(DType::f32));
        cuda::flow_log_prob(c, s.x.gpu, s.v.gpu, s.next, stored);
        CHECK(same_gpu_bits(stored, s.log_prob));
        cuda::flow_log_prob(c, shifted(s.x.gpu), s.v.gpu, shifted(s.next), stored);
        CHECK(same_gpu_bits(stored, s.log_prob));
      }
    }
  }
}

TEST_CASE("gpu: f32 steps are the CPU's bits") {
  for (const FlowNoise noise : kNoisy) {
    const FlowCoefficients c = mid_step(noise);
    const Step s(c, 3, 9001, DType::f32);
    const Tensor next = Tensor::empty({3, 9001}), log_prob = Tensor::empty({3});
    cpu::flow_step(c, s.x.gpu.to(Device{}), s.v.gpu.to(Device{}), keys_of(3).data(), next, log_prob,
                   {});
    CHECK(same_bits(s.next.to(Device{}), next));
  }
}

TEST_CASE("gpu: equal velocities give a ratio of exactly 1") {
  for (const DType dtype : kGpuTypes) {
    for (const FlowNoise noise : kNoisy) {
      for (const int64_t D : kSizes) {
        const FlowCoefficients c = mid_step(noise);
        const Step s(c, 2, D, dtype);
        const Tensor one = Tensor::full({2}, 1, DType::f32, kGpu);
        const Loss l = loss_of(c, s.x.gpu, shifted(s.v.gpu), s.next, s.log_prob, one, {}, {});
        CHECK((l.ratio.to_vector() == std::vector<double>{1, 1}));
        CHECK((l.kl.to_vector() == std::vector<double>{0, 0}));
      }
    }
  }
}

TEST_CASE("gpu: loss, ratio, KL and gradient, clipped and not") {
  for (const DType dtype : kGpuTypes) {
    for (const FlowNoise noise : kNoisy) {
      for (const int64_t D : {7, 1000, 16384, 16390}) {
        for (const double clip : {10.0, 1e-4}) {
          INFO("noise ", static_cast<int>(noise), ", D ", D, ", ", dtype_name(dtype));
          const FlowCoefficients c = mid_step(noise);
          const Step s(c, 3, D, dtype);
          const GpuInput shift({3, D}, 3, dtype, 0.05), ref({3, D}, 4, dtype);
          const Tensor v = gpu_output({3, D}, dtype);
          v.copy_from(s.v.gpu);
          cuda::axpby(1, shift.gpu, 1, v);
          const Tensor advantage = Tensor::from(std::vector<float>{1.5f, -0.7f, 0}, {3});
          const auto wide = [](const Tensor& t) { return t.to(Device{}).to(DType::f64); };
          const FlowLossArgs args{clip, clip, 0.3, D == 1000};
          const Loss l =
              loss_of(c, s.x.gpu, v, s.next, s.log_prob, on_gpu(advantage), ref.gpu, args);
          const Tensor loss = Tensor::empty({3}, DType::f64), ratio = Tensor::empty_like(loss),
                       kl = Tensor::empty_like(loss), dv = Tensor::empty({3, D}, DType::f64);
          cpu::flow_loss(c, s.x.reference, wide(v), wide(s.next), wide(s.log_prob), wide(advantage),
                         ref.reference, args, loss, ratio, kl, dv);
          // The log-probabilities, up to about 3, are rounded to f32 before exp.
          check_close(l.ratio, ratio, 1e-5);
          check_close(l.kl, kl, 1e-5);
          check_close(l.loss, loss, 1e-5);
          check_close(l.dv, dv);
          Loss bare(v.shape(), dtype);
          cuda::flow_loss(c, s.x.gpu, v, s.next, s.log_prob, on_gpu(advantage), ref.gpu, args,
                          bare.loss, bare.ratio, bare.kl, {});
          CHECK(same_gpu_bits(bare.loss, l.loss));
        }
      }
    }
  }
}

TEST_CASE("gpu: a sample does not depend on its batch") {
  const FlowCoefficients c = mid_step(FlowNoise::sde);
  for (const int64_t D : {9001, 20001}) {
    const int64_t B = D == 9001 ? 67 : 3;  // more samples than keys fit in one launch
    const Step s(c, B, D, DType::f32);
    const GpuInput v({B, D}, 3, DType::f32), ref({B, D}, 4, DType::f32),
        advantage({B}, 5, DType::f32);
    const FlowLossArgs args{1e-4, 1e-4, 0.04, false};
    const Loss all = loss_of(c, s.x.gpu, v.gpu, s.next, s.log_prob, advantage.gpu, ref.gpu, args);
    for (const int64_t b : {int64_t{0}, int64_t{1}, B - 1}) {
      const RandomKey key = keys_of(B)[static_cast<size_t>(b)];
      const Tensor next = gpu_output({1, D}), log_prob = gpu_output({1});
      cuda::flow_step(c, row(s.x.gpu, b), row(s.v.gpu, b), &key, next, log_prob, {});
      CHECK(same_gpu_bits(next, row(s.next, b)));
      CHECK(same_gpu_bits(log_prob, row(s.log_prob, b)));
      const Loss l = loss_of(c, row(s.x.gpu, b), row(v.gpu, b), next, log_prob,
                             row(advantage.gpu, b), row(ref.gpu, b), args);
      CHECK(same_gpu_bits(l.loss, row(all.loss, b)));
      CHECK(same_gpu_bits(l.kl, row(all.kl, b)));
      CHECK(same_gpu_bits(l.dv, row(all.dv, b)));
    }
  }
}

TEST_CASE("gpu: the last cps step is deterministic; NaN shows") {
  const FlowCoefficients last = flow_coefficients(FlowNoise::cps, 0.01, 0, 0.8, 0.9);
  const Step s(last, 2, 30, DType::f32);
  CHECK(same_gpu_bits(s.next, s.mean));
  const Tensor one = Tensor::full({2}, 1, DType::f32, kGpu);
  for (const double g :
       loss_of(last, s.x.gpu, s.v.gpu, s.next, s.log_prob, one, {}, {}).dv.to_vector())
    CHECK(g == 0);
  const FlowCoefficients c = mid_step(FlowNoise::sde);
  const Step t(c, 2, 100, DType::f32);
  const Tensor v = t.v.gpu.clone();
  v.select(0, 1).slice(0, 50, 51).fill(std::nan(""));
  const Loss l = loss_of(c, t.x.gpu, v, t.next, t.log_prob, one, {}, {});
  CHECK(std::isfinite(l.loss.to_vector()[0]));
  CHECK(std::isnan(l.loss.to_vector()[1]));
  CHECK(std::isnan(l.ratio.to_vector()[1]));
  CHECK(std::isnan(l.dv.to_vector()[120]));
}

TEST_CASE("gpu: flow steps that make no sense are refused") {
  const FlowCoefficients c = mid_step(FlowNoise::sde), ode = mid_step(FlowNoise::ode);
  const Tensor x = gpu_output({2, 8}), v = gpu_output({2, 8}), next = gpu_output({2, 8});
  const Tensor rows = gpu_output({2});
  const auto loss = [&](const FlowCoefficients& with, const FlowLossArgs& args) {
    return message_of([&] { loss_of(with, x, v, next, rows, rows, {}, args); });
  };
  FlowLossArgs kl;
  kl.kl_beta = 1;
  CHECK(contains(loss(ode, {}), "ode"));
  CHECK(contains(loss(c, kl), "v_ref"));
  CHECK(contains(message_of([&] { cuda::flow_step(c, x, v, nullptr, next, rows, {}); }), "key"));
  const std::vector<RandomKey> keys = keys_of(2);
  CHECK(
      contains(message_of([&] { cuda::flow_step(c, x, v, keys.data(), x, rows, {}); }), "memory"));
  const Tensor here = Tensor::empty({2});
  CHECK(contains(message_of([&] { cuda::flow_log_prob(c, x, v, next, here); }), "operands lie on"));
  const Tensor none = gpu_output({0, 8}), no_rows = gpu_output({0});
  cuda::flow_step(c, none, none.clone(), nullptr, none.clone(), no_rows, {});
}

}  // namespace parlo::test
