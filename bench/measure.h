// Side-by-side measurement for a shared, noisy machine: the operation, its ceiling and its peers
// run by turns in one loop, and the best of each counts.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>

#include "tensor/tensor.h"

namespace parlo::bench {

// Turns of a contest: the best of so many counts.
constexpr int64_t kTurns = 25;

template <class Op>
double seconds(Op&& op) {
  const auto begin = std::chrono::steady_clock::now();
  op();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// Multiply-adds out of registers on `threads` threads for about `duration` seconds; returns
// FLOP/s. The ceiling of every product.
double fma_probe(int threads, double duration);

// Bytes per second, read and written, of a copy between two blocks of `bytes` that stay in the L2.
double copy_probe(int64_t bytes);

// Best time of something over all turns. A short one runs a few times a turn: on a busy machine
// most runs meet another process.
struct Best {
  double time = 1e30;
  template <class Op>
  double run(Op&& op) {
    double best = 1e30, spent = 0;
    for (int i = 0; i < 8 && spent < 2e-3; ++i) {
      const double t = seconds(op);
      best = std::min(best, t), spent += t;
    }
    time = std::min(time, best);
    return best;
  }
};

// Normal values, the same for every run: multiplying zeros takes less power.
Tensor random(const Shape& shape);

inline void set_rate(benchmark::State& state, const char* name, double flops, const Best& best) {
  if (best.time < 1e29) state.counters[name] = flops / best.time * 1e-9;
}

// Runs `own`, then each of the peers, then the probe, for as many turns as the benchmark asks.
template <class Own, class Peers>
void contest(benchmark::State& state, int threads, double flops, Own&& own, Peers&& peers) {
  Best best;
  double ceiling = 0;
  for (auto turn : state) {
    static_cast<void>(turn);
    const double t = best.run(own);
    state.SetIterationTime(t);
    peers();
    // As long as the operation: a short slice would find quiet moments that a long one cannot.
    for (int i = 0; i < 3; ++i) {
      ceiling = std::max(ceiling, fma_probe(threads, std::clamp(t, 5e-5, 2e-3)));
    }
  }
  set_rate(state, "GFLOP/s", flops, best);
  state.counters["probe"] = ceiling * 1e-9;
  state.counters["share_%"] = 100 * flops / best.time / ceiling;
}

template <class Own>
void contest(benchmark::State& state, int threads, double flops, Own&& own) {
  contest(state, threads, flops, own, [] {});
}

}  // namespace parlo::bench
