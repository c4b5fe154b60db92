// Products in bf16 at the presets' linears: plain (NT), the gradient of the input (NN), the fused
// epilogues, and linears with a low-rank adapter, against the bare product in the same run.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/matmul.h"

namespace parlo::bench {
namespace {

struct Linear {
  Tensor x, w, y;
  LinearArgs args;
  LowRank low;  // args.low_rank is set at the call: a set may move
};

Linear operands(RandomKey key, int64_t m, int64_t n, int64_t k) {
  return {normal(key.fold("x"), {m, k}), normal(key.fold("w"), {n, k}), room({m, n}), {}, {}};
}

double flops(int64_t m, int64_t n, int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

Timing bare(int64_t m, int64_t n, int64_t k) {
  return rotate([=](RandomKey key) { return operands(key, m, n, k); },
                [](const Linear& o) { cuda::linear(o.x, o.w, o.y); });
}

void plain(benchmark::State& state, int64_t m, int64_t n, int64_t k) {
  report(state, bare(m, n, k), {flops(m, n, k), 0});
}

// dx [M, K] = dy [M, N] w [N, K].
void input_gradient(benchmark::State& state, int64_t m, int64_t n, int64_t k) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Linear o = operands(key, m, n, k);
        o.y = normal(key.fold("dy"), {m, n});
        return o;
      },
      [](const Linear& o) { cuda::matmul(o.y, false, o.w, false, o.x); });
  report(state, t, {flops(m, n, k), 0});
}

void bias_gelu(benchmark::State& state, int64_t m, int64_t n, int64_t k, bool keep) {
  const Timing t = rotate(
      [=](RandomKey key) {
        Linear o = operands(key, m, n, k);
        o.args.bias = normal(key.fold("bias"), {n});
        o.args.activation = Activation::gelu_tanh;
        if (keep) o.args.pre_activation = room({m, n});
        return o;
      },
      [](const Linear& o) { cuda::linear(o.x, o.w, o.y, o.args); });
  report(state, t, {flops(m, n, k), 0});
}

// Operations counted: those of the base alone, so that the share falls by what the adapter costs.
void adapted(benchmark::State& state, int64_t m, int64_t n, int64_t k, int64_t rank) {
  const Timing base = bare(m, n, k);
  const Timing t = rotate(
      [=](RandomKey key) {
        Linear o = operands(key, m, n, k);
        o.low = {normal(key.fold("a"), {rank, k}), normal(key.fold("b"), {n, rank}), 1.0,
                 room({m, rank})};
        return o;
      },
      [](const Linear& o) {
        LinearArgs args;
        args.low_rank = &o.low;
        cuda::linear(o.x, o.w, o.y, args);
      });
  report(state, t, {flops(m, n, k), 0});
  state.counters["x_bare"] = t.median / base.median;
}

// dA [r, K] = dDown [M, r]' x [M, K]: x must be read once.
void adapter_gradient(benchmark::State& state, int64_t m, int64_t k, int64_t rank) {
  const Timing t = rotate(
      [=](RandomKey key) {
        return Linear{normal(key.fold("x"), {m, k}),
                      normal(key.fold("down"), {m, rank}),
                      room({rank, k}),
                      {},
                      {}};
      },
      [](const Linear& o) { cuda::matmul(o.w, true, o.x, false, o.y); });
  report(state, t, {0, 2.0 * static_cast<double>(m * k + m * rank + rank * k)});
}

}  // namespace

void add_gpu_gemm() {
  for (const GpuShape& s : gpu_shapes("gemm")) {
    const int64_t m = s["m"], n = s["n"], k = s["k"], rank = s.get("rank", 0);
    const auto add = [&](const std::string& what, auto body) {
      add_gpu_benchmark(what + "/" + s.name(), body);
    };
    add("gemm", [=](benchmark::State& state) { plain(state, m, n, k); });
    if (s.has("dx")) add("gemm_dx", [=](benchmark::State& st) { input_gradient(st, m, n, k); });
    if (s.has("gelu")) {
      add("linear_gelu", [=](benchmark::State& st) { bias_gelu(st, m, n, k, false); });
      add("linear_gelu_kept", [=](benchmark::State& st) { bias_gelu(st, m, n, k, true); });
    }
    if (rank > 0) {
      add("lora", [=](benchmark::State& state) { adapted(state, m, n, k, rank); });
      add("lora_da", [=](benchmark::State& state) { adapter_gradient(state, m, k, rank); });
    }
  }
}

}  // namespace parlo::bench
