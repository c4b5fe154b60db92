// AdamW and the exponential average (kernels/adamw.h) on a GPU, f32. Floor: 28 bytes a parameter
// (p, m, v read and written, gradient read), 36 with the average.
// Many tensors go in one launch, a chunk of 8192 elements a block.
#include "kernels/adamw.h"

#include <algorithm>
#include <cmath>

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

  Entry() = default;
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

// The tensors of one launch, as many as 4 KiB of parameters hold. By value: a table in memory would
// be copied there in every step, as gradients lie elsewhere from step to step, and the host would
// wait for the copy.
constexpr size_t kGroup = 64;
struct Group {
  int count = 0;
  unsigned first[kGroup + 1];  // block of each tensor's first chunk; last: how many there are
  Entry entries[kGroup];

  explicit Group(std::span<const AdamWTensor> tensors) : count(static_cast<int>(tensors.size())) {
    first[0] = 0;
    for (size_t k = 0; k < tensors.size(); ++k) {
      entries[k] = Entry(tensors[k]);
      first[k + 1] = first[k] + static_cast<unsigned>(ceil_div(entries[k].n, kChunk));
    }
  }
  unsigned blocks() const { return first[count]; }

  // The last tensor that starts at or before a block.
  __device__ __forceinline__ int tensor_of(unsigned block) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (first[middle] <= block ? low : high) = middle;
    }
    return low;
  }
};
static_assert(sizeof(Group) + sizeof(Scalars) <= 4096);

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

__global__ void __launch_bounds__(kThreads)
    adamw_all_kernel(const __grid_constant__ Group group, Scalars s) {
  const int k = group.tensor_of(blockIdx.x);
  update_chunk(group.entries[k], blockIdx.x - group.first[k], s);
}

// Sums over chunks: f32 within a pack, f64 from there on.
__global__ void __launch_bounds__(kThreads)
    grad_squares_kernel(const __grid_constant__ Group group, double* partial) {
  const int k = group.tensor_of(blockIdx.x);
  const Entry& e = group.entries[k];
  const int64_t begin = (blockIdx.x - group.first[k]) * kChunk,
                end = begin + kChunk < e.n ? begin + kChunk : e.n;
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

// launch_one(group) for all tensors, which are checked first.
template <class LaunchOne>
void for_groups(const char* function, std::span<const AdamWTensor> tensors, bool moments,
                LaunchOne launch_one) {
  const Device device = tensors.front().param.device();
  for (const AdamWTensor& t : tensors) check_tensor(function, t, device, moments);
  for (; !tensors.empty(); tensors = tensors.subspan(std::min(kGroup, tensors.size()))) {
    launch_one(Group(tensors.first(std::min(kGroup, tensors.size()))));
  }
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
  for_groups("adamw", tensors, true, [&](const Group& group) {
    launch({"adamw", group.blocks(), kThreads, tensors.front().param.device()}, adamw_all_kernel,
           group, s);
  });
}

double grad_squares(std::span<const AdamWTensor> tensors) {
  if (tensors.empty()) return 0;
  const Device device = tensors.front().param.device();
  int64_t blocks = 0;
  for (const AdamWTensor& t : tensors) blocks += ceil_div(t.param.numel(), kChunk);
  const Tensor partial = Tensor::empty({blocks}, DType::f64, device);
  double* next = partial.data<double>();
  for_groups("grad_squares", tensors, false, [&](const Group& group) {
    launch({"grad_squares", group.blocks(), kThreads, device}, grad_squares_kernel, group, next);
    next += group.blocks();
  });
  double sum = 0;
  for (const double p : partial.to_vector()) sum += p;
  return sum;
}

}  // namespace parlo::cuda
