// Times on a GPU: medians with the 10th and 90th percentile of CUDA events, over operand sets that
// rotate until no set is left in the L2, on random data (products of zeros take less power and run
// faster). Short kernels are timed as replays of a captured graph: alone, their launches would be.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "tensor/device_memory.h"
#include "tensor/philox.h"
#include "tensor/tensor.h"

namespace parlo::bench {

inline const Device kGpu{Device::Kind::cuda, 0};

// Seconds a call.
struct Timing {
  double median = 0, low = 0, high = 0;  // low and high: 10 and 90 % of the samples
  int samples = 0;
  bool graph = false;
};

// calls: start every call from the host, as training does. best: a graph where calls are short.
enum class Start { best, calls };

// op(i) uses operand set i of `sets`, which follow one another.
Timing time_gpu(int sets, const std::function<void(int)>& op, Start start = Start::best);

// Sets of so many bytes that are needed: at least eight and twice the L2, if memory allows.
int operand_sets(int64_t bytes);

// make(key) gives one set of operands, op(set) is what is timed.
template <class Make, class Op>
Timing rotate(Make&& make, Op&& op, Start start = Start::best) {
  const int64_t before = memory_stats(kGpu).current_bytes;
  std::vector<decltype(make(RandomKey(0)))> sets;
  sets.push_back(make(RandomKey(0)));
  const int count = operand_sets(memory_stats(kGpu).current_bytes - before);
  for (int i = 1; i < count; ++i) sets.push_back(make(RandomKey(static_cast<uint64_t>(i))));
  return time_gpu(
      count, [&](int i) { op(sets[static_cast<size_t>(i)]); }, start);
}

// Standard normal, made on the device.
Tensor normal(RandomKey key, const Shape& shape, DType dtype = DType::bf16);
Tensor room(const Shape& shape, DType dtype = DType::bf16);

// What this GPU does at most, measured at the first call.
struct Ceilings {
  Timing copy, gemm;
  double copy_rate = 0;  // bytes read and written a second, device to device
  double gemm_rate = 0;  // FLOP/s of cuBLASLt, bf16, 8192^3
};
const Ceilings& ceilings();

// What a call must do: its rate is set against the product's ceiling where there are operations,
// against the copy's where there are only bytes; neither gives a latency.
struct Work {
  double flops = 0, bytes = 0;
};
void report(benchmark::State& state, const Timing& timing, const Work& work);

// gpu/NAME: the body calls report once. An Error becomes the benchmark's message.
void add_gpu_benchmark(const std::string& name, std::function<void(benchmark::State&)> body);

// Every gpu_*_bench.cpp; called where there is a GPU.
void add_gpu_ceilings();
void add_gpu_gemm();
void add_gpu_attention();
void add_gpu_decode();
void add_gpu_norm();
void add_gpu_elementwise();
void add_gpu_logprob();
void add_gpu_vae();
void add_gpu_train();
void add_gpu_grpo();

}  // namespace parlo::bench
