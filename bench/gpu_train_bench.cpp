// What a training step does besides the model: AdamW with the moving average (36 bytes a
// parameter), and the sampler's step and policy loss, whose latents are so small that only the
// latency counts, alone and as one of many nodes of a captured graph.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/adamw.h"
#include "kernels/flow_step.h"

namespace parlo::bench {
namespace {

void optimiser(benchmark::State& state, int64_t n, bool average) {
  const Timing t = rotate(
      [=](RandomKey key) {
        AdamWTensor o;
        o.param = normal(key.fold("p"), {n}, DType::f32);
        o.grad = normal(key.fold("g"), {n}, DType::f32);
        o.m = Tensor::zeros({n}, DType::f32, kGpu);
        o.v = Tensor::full({n}, 1, DType::f32, kGpu);
        if (average) o.average = o.param.clone();
        return o;
      },
      [=](const AdamWTensor& o) {
        if (average) {
          cuda::adamw_all({&o, 1}, {}, 0.99);
        } else {
          cuda::adamw(o.param, o.grad, o.m, o.v, {});
        }
      });
  report(state, t, {0, (average ? 36.0 : 28.0) * static_cast<double>(n)});
}

struct Latents {
  Tensor x, v, next, mean, log_prob, old_log_prob, advantage, ref, loss, ratio, kl, dv;
  std::vector<RandomKey> keys;
};

FlowCoefficients coefficients() {
  return flow_coefficients(FlowNoise::sde, 0.8, 0.7, 0.7, 0.96);
}

Latents latents(RandomKey key, int64_t batch, int64_t n) {
  const Shape shape{batch, n};
  Latents o;
  o.x = normal(key.fold("x"), shape, DType::f32), o.v = normal(key.fold("v"), shape, DType::f32);
  o.ref = normal(key.fold("ref"), shape, DType::f32);
  o.advantage = normal(key.fold("advantage"), {batch}, DType::f32);
  for (Tensor* t : {&o.next, &o.mean, &o.dv}) *t = room(shape, DType::f32);
  for (Tensor* t : {&o.log_prob, &o.old_log_prob, &o.loss, &o.ratio, &o.kl}) {
    *t = room({batch}, DType::f32);
  }
  for (int64_t b = 0; b < batch; ++b) o.keys.push_back(key.fold(static_cast<uint64_t>(b)));
  cuda::flow_step(coefficients(), o.x, o.v, o.keys.data(), o.next, o.old_log_prob, o.mean);
  return o;
}

void step(benchmark::State& state, int64_t batch, int64_t n, Start start) {
  const FlowCoefficients c = coefficients();
  const Timing t = rotate([=](RandomKey key) { return latents(key, batch, n); },
                          [&](const Latents& o) {
                            cuda::flow_step(c, o.x, o.v, o.keys.data(), o.next, o.log_prob, o.mean);
                          },
                          start);
  report(state, t, {});
}

void loss(benchmark::State& state, int64_t batch, int64_t n, Start start) {
  const FlowCoefficients c = coefficients();
  FlowLossArgs args;
  args.kl_beta = 0.01;
  const Timing t = rotate([=](RandomKey key) { return latents(key, batch, n); },
                          [&](const Latents& o) {
                            cuda::flow_loss(c, o.x, o.v, o.next, o.old_log_prob, o.advantage, o.ref,
                                            args, o.loss, o.ratio, o.kl, o.dv);
                          },
                          start);
  report(state, t, {});
}

}  // namespace

void add_gpu_train() {
  using State = benchmark::State;
  for (const GpuShape& s : gpu_shapes("adamw")) {
    const int64_t n = s["elements"];
    add_gpu_benchmark("adamw/" + s.name(), [=](State& st) { optimiser(st, n, false); });
    add_gpu_benchmark("adamw_ema/" + s.name(), [=](State& st) { optimiser(st, n, true); });
  }
  for (const GpuShape& s : gpu_shapes("flow_step")) {
    const int64_t batch = s["batch"], n = s["elements"];
    const auto add = [&](const char* what, auto body, Start start) {
      add_gpu_benchmark(std::string(what) + "/" + s.name(),
                        [=](State& st) { body(st, batch, n, start); });
    };
    add("flow_step", step, Start::calls);
    add("flow_step_graph", step, Start::best);
    add("flow_loss", loss, Start::calls);
    add("flow_loss_graph", loss, Start::best);
  }
}

}  // namespace parlo::bench
