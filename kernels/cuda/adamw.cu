// AdamW and the exponential average (kernels/adamw.h) on a GPU, f32. Floor: 28 bytes a parameter
// (p, m, v read and written, gradient read), 36 with the average.
// Many tensors go in one launch: a table of them and a list of their chunks of 8192 elements, one a
// block, are copied to the device first.
#include "kernels/adamw.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cuda/map.cuh"
#include "kernels/cuda/rows.cuh"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kChunk = 8192;
constexpr int kLane = kPack<float>;

struct Scalars {
  float beta1, rest1, beta2, rest2;
  float rate;  // lr / (1 - beta1^t)
  float root;  // 1 / sqrt(1 - beta2^t)
  float eps;
  float decay;  // lr * weight_decay
  float grad_scale;
  float average;  // 1 - the average's decay
};

Scalars scalars_of(const AdamWStep& s, double average_decay) {
  CHECK(s.step >= 1, "adamw: step counts from 1, got ", s.step);
  const double t = static_cast<double>(s.step);
  const auto cast = [](double v) { return static_cast<float>(v); };
  return {cast(s.beta1),
          cast(1 - s.beta1),
          cast(s.beta2),
          cast(1 - s.beta2),
          cast(s.lr / (1 - std::pow(s.beta1, t))),
          cast(1 / std::sqrt(1 - std::pow(s.beta2, t))),
          cast(s.eps),
          cast(s.lr * s.weight_decay),
          cast(s.grad_scale),
          cast(1 - average_decay)};
}

// One tensor as the kernels see it; null: undefined.
struct Entry {
  float* param;
  const float* grad;
  float *m, *v, *average;
  int64_t n;
  int64_t aligned;  // all of them, to 16 bytes

  explicit Entry(const AdamWTensor& t)
      : param(pointer<float>(t.param)),
        grad(pointer<const float>(t.grad)),
        m(pointer<float>(t.m)),
        v(pointer<float>(t.v)),
        average(pointer<float>(t.average)),
        n(t.param.numel()),
        aligned(is_aligned(param) && is_aligned(grad) && is_aligned(m) && is_aligned(v) &&
                is_aligned(average)) {}
};
constexpr int kEntryWords = sizeof(Entry) / sizeof(int64_t);
static_assert(kEntryWords == 7 && std::is_trivially_copyable_v<Entry>);

// The CPU's operations in its order. The update is subtracted once: p (1 - lr wd) would lose a
// small lr wd.
__device__ __forceinline__ void update(const Scalars& s, float& p, float grad, float& m, float& v) {
  const float g = __fmul_rn(s.grad_scale, grad);
  m = __fmaf_rn(s.beta1, m, __fmul_rn(s.rest1, g));
  v = __fmaf_rn(s.beta2, v, __fmul_rn(s.rest2, __fmul_rn(g, g)));
  const float step = __fdiv_rn(__fmul_rn(s.rate, m), __fmaf_rn(__fsqrt_rn(v), s.root, s.eps));
  p = __fsub_rn(p, __fmaf_rn(s.decay, p, step));
}

// An average that equals the parameter stays exactly there.
__device__ __forceinline__ float toward(float average, float p, float weight) {
  return __fmaf_rn(weight, __fsub_rn(p, average), average);
}

template <bool Packed>
__device__ __forceinline__ void update_pack(const Entry& e, int64_t i, const Scalars& s) {
  float p[kLane], g[kLane], m[kLane], v[kLane], average[kLane];
  load_row<Packed>(p, e.param, i, e.n);
  if (e.average) load_row<Packed>(average, e.average, i, e.n);
  if (e.grad) {
    load_row<Packed>(g, e.grad, i, e.n);
    load_row<Packed>(m, e.m, i, e.n);
    load_row<Packed>(v, e.v, i, e.n);
#pragma unroll
    for (int k = 0; k < kLane; ++k) update(s, p[k], g[k], m[k], v[k]);
    store_row<Packed>(e.param, i, e.n, p);
    store_row<Packed>(e.m, i, e.n, m);
    store_row<Packed>(e.v, i, e.n, v);
  }
  if (e.average) {
#pragma unroll
    for (int k = 0; k < kLane; ++k) average[k] = toward(average[k], p[k], s.average);
    store_row<Packed>(e.average, i, e.n, average);
  }
}

__device__ __forceinline__ void update_chunk(const Entry& e, int64_t chunk, const Scalars& s) {
  const int64_t begin = chunk * kChunk, end = begin + kChunk < e.n ? begin + kChunk : e.n;
  for (int64_t i = begin + threadIdx.x * kLane; i < end; i += kThreads * kLane) {
    e.aligned&& i + kLane <= e.n ? update_pack<true>(e, i, s) : update_pack<false>(e, i, s);
  }
}

__global__ void __launch_bounds__(kThreads) adamw_kernel(Entry e, Scalars s) {
  update_chunk(e, blockIdx.x, s);
}

// chunks[block]: index of the tensor, index of its chunk.
__global__ void __launch_bounds__(kThreads)
    adamw_all_kernel(const Entry* entries, const int2* chunks, Scalars s) {
  const int2 place = chunks[blockIdx.x];
  const Entry e = entries[place.x];
  update_chunk(e, place.y, s);
}

// Sums over chunks: f32 within a pack, f64 from there on.
__global__ void __launch_bounds__(kThreads)
    grad_squares_kernel(const Entry* entries, const int2* chunks, double* partial) {
  const int2 place = chunks[blockIdx.x];
  const Entry e = entries[place.x];
  const int64_t begin = place.y * kChunk, end = begin + kChunk < e.n ? begin + kChunk : e.n;
  double sum = 0;
  const auto add = [&](int64_t i, auto packed) {
    float g[kLane], part = 0;
    load_row<packed.value>(g, e.grad, i, e.n);
#pragma unroll
    for (int k = 0; k < kLane; ++k) part = fmaf(g[k], g[k], part);
    sum += part;
  };
  for (int64_t i = begin + threadIdx.x * kLane; e.grad && i < end; i += kThreads * kLane) {
    e.aligned&& i + kLane <= e.n ? add(i, std::true_type{}) : add(i, std::false_type{});
  }
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

// The norm of gradients needs no moments.
void check_tensor(const char* function, const AdamWTensor& t, Device device, bool moments = true) {
  const auto check = [&](const char* name, const Tensor& x) {
    check_output(function, name, x, DType::f32, t.param.numel());
    CHECK(x.device() == device, function, ": operands lie on ", to_string(device), " and on ",
          to_string(x.device()), "; move them with Tensor::to");
  };
  check("param", t.param);
  if (t.grad) {
    check_operand(function, "grad", t.grad, DType::f32, t.param.numel());
    check_same_device(function, t.param, t.grad);
    if (moments) check("m", t.m), check("v", t.v);
  }
  if (t.average) check("average", t.average);
}

void run_one(const char* name, const AdamWTensor& t, const Scalars& s) {
  check_tensor(name, t, t.param.device());
  launch(
      {name, static_cast<unsigned>(ceil_div(t.param.numel(), kChunk)), kThreads, t.param.device()},
      adamw_kernel, Entry(t), s);
}

// The tensors' table followed by the blocks' chunks, on the device.
struct Table {
  Tensor memory;
  int64_t blocks = 0;
  const Entry* entries = nullptr;
  const int2* chunks = nullptr;

  Table(const char* function, std::span<const AdamWTensor> tensors, bool moments) {
    std::vector<int64_t> words(tensors.size() * kEntryWords);
    const Device device = tensors.front().param.device();
    for (size_t k = 0; k < tensors.size(); ++k) {
      check_tensor(function, tensors[k], device, moments);
      const Entry e(tensors[k]);
      std::memcpy(words.data() + k * kEntryWords, &e, sizeof e);
      for (int64_t c = 0; c * kChunk < e.n; ++c)
        words.push_back(c << 32 | static_cast<int64_t>(k));  // an int2, x first
    }
    const auto head = static_cast<int64_t>(tensors.size() * kEntryWords);
    blocks = static_cast<int64_t>(words.size()) - head;
    memory = Tensor::from(words, {head + blocks}).to(device);
    entries = reinterpret_cast<const Entry*>(memory.data<int64_t>());
    chunks = reinterpret_cast<const int2*>(memory.data<int64_t>() + head);
  }
};

Launch over(const char* name, const Table& table) {
  return {name, static_cast<unsigned>(table.blocks), kThreads, table.memory.device()};
}

}  // namespace

void adamw(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v,
           const AdamWStep& step) {
  CHECK(grad.defined(), "adamw: grad is missing");
  run_one("adamw", {param, grad, m, v, {}}, scalars_of(step, 0));
}

void ema(const Tensor& average, const Tensor& param, double decay) {
  CHECK(average.defined(), "ema: average is missing");
  run_one("ema", {param, {}, {}, {}, average}, scalars_of({}, decay));
}

void adamw_all(std::span<const AdamWTensor> tensors, const AdamWStep& step, double decay) {
  const Scalars s = scalars_of(step, decay);
  if (tensors.empty()) return;
  const Table table("adamw", tensors, true);
  launch(over("adamw", table), adamw_all_kernel, table.entries, table.chunks, s);
}

double grad_squares(std::span<const AdamWTensor> tensors) {
  if (tensors.empty()) return 0;
  const Table table("grad_squares", tensors, false);
  const Tensor partial = Tensor::empty({table.blocks}, DType::f64, table.memory.device());
  launch(over("grad_squares", table), grad_squares_kernel, table.entries, table.chunks,
         partial.data<double>());
  double sum = 0;
  for (const double p : partial.to_vector()) sum += p;
  return sum;
}

}  // namespace parlo::cuda
