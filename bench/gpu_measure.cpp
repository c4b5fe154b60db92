#include "bench/gpu_measure.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "kernels/cuda/blas.h"
#include "kernels/random.h"
#include "tensor/cuda/runtime.h"

namespace parlo::bench {
namespace {

constexpr int kLeastSets = 8, kMostSets = 64;
constexpr int kLeastSamples = 15, kMostSamples = 200;
constexpr double kSampling = 0.2;  // seconds a benchmark
constexpr double kWarmUp = 0.03;
// Long enough that the half microsecond of an event's resolution does not count.
constexpr double kSample = 200e-6;
constexpr int kMostCalls = 512;  // in one sample

double seconds_between(const cuda::Event& start, const cuda::Event& end) {
  end.wait();
  return 1e-3 * static_cast<double>(end.ms_since(start));
}

double percentile(const std::vector<double>& sorted, double share) {
  const double at = share * static_cast<double>(sorted.size() - 1);
  const auto i = static_cast<size_t>(at);
  const size_t next = std::min(i + 1, sorted.size() - 1);
  return sorted[i] + (at - static_cast<double>(i)) * (sorted[next] - sorted[i]);
}

// A graph of `calls` calls, or nothing for an operation that cannot be captured (it waits for the
// device, or allocates through the driver).
std::optional<cuda::Graph> try_capture(int sets, int calls, const std::function<void(int)>& op) {
  try {
    return cuda::Graph::capture(kGpu, [&] {
      for (int i = 0; i < calls; ++i) op(i % sets);
    });
  } catch (const Error&) {
    return std::nullopt;
  }
}

// Samples follow one another without a wait, so that the device never idles between them: their
// events lie in pairs, and are read at the end.
std::vector<double> sample(int count, const std::function<void()>& body) {
  const cudaStream_t stream = cuda::stream_of(kGpu);
  std::vector<std::unique_ptr<cuda::Event>> events;
  for (int i = 0; i <= count; ++i) events.push_back(std::make_unique<cuda::Event>());
  events[0]->record(stream);
  for (int i = 1; i <= count; ++i) {
    body();
    events[static_cast<size_t>(i)]->record(stream);
  }
  std::vector<double> times;
  for (size_t i = 1; i < events.size(); ++i) {
    times.push_back(seconds_between(*events[i - 1], *events[i]));
  }
  return times;
}

}  // namespace

Timing time_gpu(int sets, const std::function<void(int)>& op, Start start) {
  const cudaStream_t stream = cuda::stream_of(kGpu);
  int next = 0;
  const auto call = [&] { op(next), next = (next + 1) % sets; };
  const auto several = [&](int calls) {
    for (int i = 0; i < calls; ++i) call();
  };
  several(sets);  // chooses algorithms, loads code
  synchronize(kGpu);
  double once = 0, warm = 0;
  while (warm < kWarmUp) {  // clocks rise
    cuda::Event begin, end;
    begin.record(stream);
    several(sets);
    end.record(stream);
    once = std::max(1e-7, seconds_between(begin, end) / sets);
    warm += once * sets;
  }
  Timing timing;
  int calls = std::clamp(static_cast<int>(std::ceil(kSample / once)), 1, kMostCalls);
  std::function<void()> body = [&] { several(calls); };
  std::optional<cuda::Graph> graph;
  if (calls > 1 && start == Start::best) {
    // Whole turns of the sets: every replay starts at the first.
    const int turns = std::clamp(calls / sets * sets, sets, std::max(sets, kMostCalls));
    graph = try_capture(sets, turns, op);
    if (graph) {
      calls = turns, timing.graph = true;
      body = [&] { graph->launch(); };
      body();
    }
  }
  timing.samples =
      std::clamp(static_cast<int>(kSampling / (once * calls)), kLeastSamples, kMostSamples);
  std::vector<double> times = sample(timing.samples, body);
  std::sort(times.begin(), times.end());
  timing.median = percentile(times, 0.5) / calls;
  timing.low = percentile(times, 0.1) / calls;
  timing.high = percentile(times, 0.9) / calls;
  return timing;
}

int operand_sets(int64_t bytes) {
  const cuda::Properties& gpu = cuda::properties(kGpu);
  const int64_t one = std::max<int64_t>(1, bytes);
  const auto memory = static_cast<int64_t>(gpu.memory_bytes) / 3;
  const int64_t past_l2 = 2 * static_cast<int64_t>(gpu.l2_bytes) / one + 1;
  const int64_t wanted = std::clamp<int64_t>(past_l2, kLeastSets, kMostSets);
  return static_cast<int>(std::clamp<int64_t>(memory / one, 1, wanted));
}

Tensor normal(RandomKey key, const Shape& shape, DType dtype) {
  const Tensor t = room(shape, dtype);
  cuda::random_normal(key, t);
  return t;
}

Tensor room(const Shape& shape, DType dtype) {
  return Tensor::empty(shape, dtype, kGpu);
}

namespace {

Ceilings measure_ceilings() {
  Ceilings c;
  constexpr int64_t kElements = int64_t{1} << 28;  // 512 MiB, many times the L2
  struct Pair {
    Tensor from, to;
  };
  c.copy = rotate(
      [](RandomKey key) {
        return Pair{normal(key, {kElements}), room({kElements})};
      },
      [](const Pair& p) { copy_memory(p.to.raw(), kGpu, p.from.raw(), kGpu, p.from.nbytes()); });
  c.copy_rate = 2.0 * 2 * kElements / c.copy.median;

  constexpr int64_t kSide = 8192;
  struct Product {
    Tensor a, b, c;
  };
  // The library's own choice for these sizes, free to cut K: the peer's product, not ours.
  c.gemm = rotate(
      [](RandomKey key) {
        return Product{normal(key.fold("a"), {kSide, kSide}), normal(key.fold("b"), {kSide, kSide}),
                       room({kSide, kSide})};
      },
      [](const Product& p) {
        cuda::GemmArgs g;
        g.device = kGpu;
        g.in = g.out = DType::bf16;
        g.m = g.n = g.k = g.a_row = g.b_row = g.c_row = kSide;
        g.a = p.a.raw(), g.b = p.b.raw(), g.c = p.c.raw();
        g.trans_b = g.split_k = true;
        cuda::gemm(g);
      });
  c.gemm_rate = 2.0 * kSide * kSide * kSide / c.gemm.median;
  return c;
}

}  // namespace

const Ceilings& ceilings() {
  static const Ceilings measured = measure_ceilings();
  return measured;
}

void report(benchmark::State& state, const Timing& timing, const Work& work) {
  for (auto turn : state) {
    static_cast<void>(turn);
    state.SetIterationTime(timing.median);
  }
  state.counters["p10_us"] = 1e6 * timing.low;
  state.counters["p90_us"] = 1e6 * timing.high;
  state.counters["graph"] = timing.graph;
  if (work.flops > 0) {
    state.counters["TFLOP/s"] = 1e-12 * work.flops / timing.median;
    state.counters["share_%"] = 100 * work.flops / timing.median / ceilings().gemm_rate;
  } else if (work.bytes > 0) {
    state.counters["GB/s"] = 1e-9 * work.bytes / timing.median;
    state.counters["share_%"] = 100 * work.bytes / timing.median / ceilings().copy_rate;
  }
}

void add_gpu_benchmark(const std::string& name, std::function<void(benchmark::State&)> body) {
  const auto run = [body = std::move(body)](benchmark::State& state) {
    try {
      body(state);
    } catch (const std::exception& error) {
      state.SkipWithError(error.what());
    }
  };
  benchmark::RegisterBenchmark(("gpu/" + name).c_str(), run)
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace parlo::bench
