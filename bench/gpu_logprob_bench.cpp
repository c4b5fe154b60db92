// Log-probabilities and entropies of a linear head in bf16, without the logits in memory, and the
// gradient of the hidden states with the head frozen: the logits are made twice, so that backward
// counts two products.
#include <cmath>

#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/linear_logprob.h"

namespace parlo::bench {
namespace {

struct Tokens {
  Tensor x, w, targets, log_prob, entropy, lse, dy, dx;
};

Tokens operands(RandomKey key, int64_t rows, int64_t vocabulary, int64_t k) {
  Tokens o;
  o.x = normal(key.fold("x"), {rows, k}), o.w = normal(key.fold("w"), {vocabulary, k});
  std::vector<int64_t> ids;
  for (int64_t r = 0; r < rows; ++r) ids.push_back(r * 7919 % vocabulary);
  o.targets = Tensor::from(ids, {rows}).to(kGpu);
  for (Tensor* t : {&o.log_prob, &o.entropy, &o.lse}) *t = room({rows}, DType::f32);
  return o;
}

// Logits with a deviation of 3.
LinearLogProbArgs args(int64_t k) {
  return {.temperature = std::sqrt(static_cast<double>(k)) / 3};
}

void forward(const Tokens& o) {
  cuda::linear_log_prob(o.x, o.w, o.targets, args(o.x.dim(1)), o.log_prob, o.entropy, o.lse);
}

double flops(const GpuShape& s) {
  return 2.0 * static_cast<double>(s["rows"]) * static_cast<double>(s["columns"]) *
         static_cast<double>(s["k"]);
}

void log_prob(benchmark::State& state, const GpuShape& s) {
  const Timing t = rotate(
      [&](RandomKey key) { return operands(key, s["rows"], s["columns"], s["k"]); }, forward);
  report(state, t, {flops(s), 0});
}

void log_prob_backward(benchmark::State& state, const GpuShape& s) {
  const Timing t = rotate(
      [&](RandomKey key) {
        Tokens o = operands(key, s["rows"], s["columns"], s["k"]);
        forward(o);
        o.dy = normal(key.fold("dy"), {s["rows"]}, DType::f32);
        o.dx = room(o.x.shape());
        return o;
      },
      [](const Tokens& o) {
        cuda::linear_log_prob_backward(o.x, o.w, o.targets, args(o.x.dim(1)), o.entropy, o.lse,
                                       {o.dy, {}, o.dx, {}});
      });
  report(state, t, {2 * flops(s), 0});
}

}  // namespace

void add_gpu_logprob() {
  for (const GpuShape& s : gpu_shapes("log_prob")) {
    add_gpu_benchmark("linear_log_prob/" + s.name(),
                      [=](benchmark::State& state) { log_prob(state, s); });
    add_gpu_benchmark("linear_log_prob_dx/" + s.name(),
                      [=](benchmark::State& state) { log_prob_backward(state, s); });
  }
}

}  // namespace parlo::bench
