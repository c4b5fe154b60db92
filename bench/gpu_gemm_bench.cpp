// Products in bf16 at the presets' linears: plain (NT), the gradient of the input (NN), the fused
// epilogues, and linears with low-rank adapters, against the bare product in the same run. Where
// two kernels can do it, NAME_hopper is our own and NAME_library cuBLASLt with what must follow it.
// glu_linear: gate and up of a SwiGLU MLP and their unit, kept: with both halves for the backward.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/cuda/linear_path.h"
#include "kernels/glu_linear.h"
#include "kernels/matmul.h"
#include "tensor/cuda/runtime.h"

namespace parlo::bench {
namespace {

using Path = cuda::LinearPath;

struct Linear {
  Tensor x, w, y;
  LinearArgs args;
  std::vector<LowRankRows> low;  // args.low_rank_rows is set at the call: a set may move
};

Linear operands(RandomKey key, int64_t m, int64_t n, int64_t k) {
  return {normal(key.fold("x"), {m, k}), normal(key.fold("w"), {n, k}), room({m, n}), {}, {}};
}

double flops(int64_t m, int64_t n, int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

void run(const Linear& o) {
  LinearArgs args = o.args;
  args.low_rank_rows = o.low;
  cuda::linear(o.x, o.w, o.y, args);
}

Timing bare(int64_t m, int64_t n, int64_t k, Path path) {
  const cuda::UseLinearPath use(path);
  return rotate([=](RandomKey key) { return operands(key, m, n, k); }, run);
}

void plain(benchmark::State& state, int64_t m, int64_t n, int64_t k, Path path) {
  report(state, bare(m, n, k, path), {flops(m, n, k), 0});
}

// dx [M, K] = dy [M, N] w [N, K].
void input_gradient(benchmark::State& state, int64_t m, int64_t n, int64_t k, Path path) {
  const cuda::UseLinearPath use(path);
  const Timing t = rotate(
      [=](RandomKey key) {
        Linear o = operands(key, m, n, k);
        o.y = normal(key.fold("dy"), {m, n});
        return o;
      },
      [](const Linear& o) { cuda::linear_backward(o.y, o.w, o.x); });
  report(state, t, {flops(m, n, k), 0});
}

struct Gelu {
  bool keep = false, residual = false;
};

void bias_gelu(benchmark::State& state, int64_t m, int64_t n, int64_t k, Gelu what, Path path) {
  const cuda::UseLinearPath use(path);
  const Timing t = rotate(
      [=](RandomKey key) {
        Linear o = operands(key, m, n, k);
        o.args.bias = normal(key.fold("bias"), {n});
        o.args.activation = Activation::gelu_tanh;
        if (what.keep) o.args.pre_activation = room({m, n});
        if (what.residual) o.args.residual = normal(key.fold("residual"), {m, n});
        return o;
      },
      run);
  report(state, t, {flops(m, n, k), 0});
}

// `parts` adapters of as many rows each, every second one absent (a reference's rows): 1 is one
// adapter of all rows.
std::vector<LowRankRows> adapters(RandomKey key, int64_t m, int64_t n, int64_t k, int64_t rank,
                                  int64_t parts) {
  std::vector<LowRankRows> low;
  for (int64_t i = 0; i < parts; i += 2) {
    const RandomKey mine = key.fold(static_cast<uint64_t>(i));
    const int64_t first = m * i / parts, rows = m * (i + 1) / parts - first;
    low.push_back({first,
                   rows,
                   {normal(mine.fold("a"), {rank, k}), normal(mine.fold("b"), {n, rank}), 1.0,
                    normal(mine.fold("down"), {rows, rank})}});
  }
  return low;
}

struct Adapted {
  int64_t rank, parts = 1;
  bool backward = false;  // linear_backward, `down` given
};

// Operations counted: those of the base alone, so that the share falls by what the adapter costs.
void adapted(benchmark::State& state, int64_t m, int64_t n, int64_t k, Adapted what, Path path) {
  const Timing base = bare(m, n, k, Path::library);
  const cuda::UseLinearPath use(path);
  const Timing t = rotate(
      [=](RandomKey key) {
        Linear o = operands(key, m, n, k);
        o.low = adapters(key, m, n, k, what.rank, what.parts);
        return o;
      },
      [=](const Linear& o) {
        what.backward ? cuda::linear_backward(o.y, o.w, o.x, o.low) : run(o);
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

// n: columns of y, half of those of the product.
void gated(benchmark::State& state, int64_t m, int64_t n, int64_t k, bool keep, Path path) {
  const Timing base = bare(m, 2 * n, k, Path::library);
  const cuda::UseLinearPath use(path);
  const Timing t = rotate(
      [=](RandomKey key) {
        Linear o{
            normal(key.fold("x"), {m, k}), normal(key.fold("w"), {2 * n, k}), room({m, n}), {}, {}};
        if (keep) o.args.pre_activation = room({m, 2 * n});
        return o;
      },
      [](const Linear& o) {
        GluLinearArgs args;
        args.halves = o.args.pre_activation;
        cuda::glu_linear(Activation::silu, o.x, o.w, o.y, args);
      });
  report(state, t, {flops(m, 2 * n, k), 0});
  state.counters["x_bare"] = t.median / base.median;
}

void add_gated() {
  for (const GpuShape& s : gpu_shapes("glu_linear")) {
    const int64_t m = s["m"], n = s["n"], k = s["k"];
    for (const auto& [suffix, p] : {std::pair{"", Path::automatic}, {"_library", Path::library}}) {
      for (const bool keep : {false, true}) {
        const Path path = p;
        const std::string what = std::string("glu_linear") + (keep ? "_kept" : "") + suffix;
        add_gpu_benchmark(what + "/" + s.name(),
                          [=](benchmark::State& st) { gated(st, m, n, k, keep, path); });
      }
    }
  }
}

}  // namespace

void add_gpu_gemm() {
  add_gated();
  const cuda::Properties& gpu = cuda::properties(kGpu);
  std::vector<std::pair<std::string, Path>> paths{{"", Path::library}};
  if (gpu.major == 9 && gpu.minor == 0) paths.emplace_back("_hopper", Path::hopper);
  for (const GpuShape& s : gpu_shapes("gemm")) {
    const int64_t m = s["m"], n = s["n"], k = s["k"], rank = s.get("rank", 0);
    using State = benchmark::State;
    const auto add = [&](const std::string& what, auto body) {
      add_gpu_benchmark(what + "/" + s.name(), body);
    };
    for (const auto& [suffix, p] : paths) {
      const Path path = p;
      add("gemm" + suffix, [=](State& st) { plain(st, m, n, k, path); });
      if (s.has("dx")) {
        add("gemm_dx" + suffix, [=](State& st) { input_gradient(st, m, n, k, path); });
      }
      if (s.has("gelu")) {
        add("linear_gelu" + suffix, [=](State& st) { bias_gelu(st, m, n, k, {}, path); });
        add("linear_gelu_kept" + suffix, [=](State& st) { bias_gelu(st, m, n, k, {true}, path); });
        add("linear_gelu_residual" + suffix, [=](State& st) {
          bias_gelu(st, m, n, k, {true, true}, path);
        });
      }
    }
    if (rank == 0) continue;
    // What linear chooses has the plain name, which the peers have too.
    for (const auto& [suffix, p] : {std::pair{"", Path::automatic}, {"_library", Path::library}}) {
      const Path path = p;
      const auto add_adapted = [&](const std::string& what, const Adapted& how) {
        add(what + suffix, [=](State& st) { adapted(st, m, n, k, how, path); });
      };
      add_adapted("lora", {rank});
      add_adapted("lora_rows", {rank, 4});
      add_adapted("lora_dx", {rank, 1, true});
    }
    add("lora_da", [=](State& st) { adapter_gradient(st, m, k, rank); });
  }
}

}  // namespace parlo::bench
