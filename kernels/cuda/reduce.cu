// Sums of whole tensors, row maxima and the check for non-finite values (kernels/reduce.h,
// kernels/elementwise.h) on a GPU. Floor: bytes of the operands once.
// A sum: f32 over the values of one pack, f64 from there on; a fixed number of blocks for a size.
#include "kernels/reduce.h"

#include "kernels/cuda/rows.cuh"
#include "kernels/elementwise.h"

namespace parlo::cuda {
namespace {

constexpr int64_t kMostBlocks = 1024;  // all resident on a large GPU

enum class Total { sum, dot };

template <Total kind, bool Packed, class T>
__global__ void __launch_bounds__(kRowThreads)
    total_kernel(const T* a, const T* b, int64_t n, double* partial) {
  constexpr int N = kPack<T>;
  struct Operands {
    Pack<T, N> x, y;
  };
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRowThreads * N, whole = n / N * N;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  double sum = 0;
  const auto load = [&](int64_t i) {
    Operands o{load_inside<Packed, N>(a, i, whole), {}};
    if constexpr (kind == Total::dot) o.y = load_inside<Packed, N>(b, i, whole);
    return o;
  };
  const auto add = [&](const Operands& o, int64_t) {
    float part = 0;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float v = to_f32(o.x.v[k]);
      if constexpr (kind == Total::dot) part = fmaf(v, to_f32(o.y.v[k]), part);
      if constexpr (kind == Total::sum) part += v;
    }
    sum += part;
  };
  for_batches<4>(first * N, whole, step, load, add);
  if (first < n - whole) {  // what is left of the last pack
    const float v = to_f32(a[whole + first]);
    sum += kind == Total::dot ? v * to_f32(b[whole + first]) : v;
  }
  sum = block_sum<kRowThreads>(sum);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

template <Total kind>
double total(const char* name, const Tensor& a, const Tensor& b) {
  const int64_t n = a.numel();
  if (n == 0) return 0;
  return visit_dtype_gpu(a.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const unsigned blocks = blocks_for(n, kRowThreads * kPack<T>, kMostBlocks);
    const Tensor partial = Tensor::empty({blocks}, DType::f64, a.device());
    const T *pa = pointer<const T>(a), *pb = pointer<const T>(b);
    with_packing(is_aligned(pa) && is_aligned(pb), [&](auto packed) {
      launch({name, blocks, kRowThreads, a.device()}, total_kernel<kind, packed.value, T>, pa, pb,
             n, partial.data<double>());
    });
    double sum = 0;
    for (const double p : partial.to_vector()) sum += p;
    return sum;
  });
}

// A value of a row and where it stands; nothing beats the first NaN, then the first of the largest.
struct Best {
  float value = -INFINITY;
  int64_t index = INT64_MAX;

  __device__ void meet(float v, int64_t i) {
    const bool nan = value != value, other = v != v;
    const bool wins = nan != other ? other : (nan || value == v ? i < index : v > value);
    if (wins) value = v, index = i;
  }
  __device__ void meet_lanes() {
#pragma unroll
    for (int o = kWarp / 2; o > 0; o /= 2) {
      const float v = __shfl_xor_sync(kAllLanes, value, o);
      const int64_t i = __shfl_xor_sync(kAllLanes, index, o);
      meet(v, i);
    }
  }
};

template <int Threads, bool Packed, class T>
__global__ void __launch_bounds__(kRowThreads)
    max_rows_kernel(const T* x, int64_t rows, int64_t C, T* values, int64_t* indices) {
  constexpr int N = kPack<T>, kWarps = kRowThreads / kWarp;
  const int64_t r = row_of_thread<Threads>();
  if (r >= rows) return;  // a whole warp, or nobody
  Best best;
  for (int64_t i = thread_of_row<Threads>() * N; i < C; i += Threads * N) {
    float v[N];
    load_row<Packed>(v, x + r * C, i, C, -INFINITY);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (i + k < C) best.meet(v[k], i + k);
    }
  }
  best.meet_lanes();
  if constexpr (Threads > kWarp) {
    SMEM(float, value, [kWarps]);
    SMEM(int64_t, index, [kWarps]);
    const int warp = threadIdx.x / kWarp;
    if (threadIdx.x % kWarp == 0) value[warp] = best.value, index[warp] = best.index;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) best.meet(value[w], index[w]);
  }
  if (thread_of_row<Threads>() != 0) return;
  if (values) values[r] = from_f32<T>(best.value);
  if (indices) indices[r] = best.index;
}

// A float of any width is infinite or NaN where all bits of its exponent are set.
template <class Bits>
__global__ void __launch_bounds__(kRowThreads)
    finite_kernel(const Bits* x, int64_t n, int64_t whole, Bits exponent, int* found) {
  constexpr int N = kPack<Bits>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRowThreads;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * kRowThreads + threadIdx.x;
  bool bad = false;
#pragma unroll 4
  for (int64_t i = first * N; i < whole; i += step * N) {
    const Pack<Bits, N> p = load_pack<N>(x + i);
#pragma unroll
    for (int k = 0; k < N; ++k) bad |= (p.v[k] & exponent) == exponent;
  }
  for (int64_t i = whole + first; i < n; i += step) bad |= (x[i] & exponent) == exponent;
  if (bad) atomicExch(found, 1);
}

// `whole`: elements in whole aligned packs, from the first on.
template <class Bits>
bool finite(const Tensor& x, Bits exponent) {
  const Tensor found = Tensor::zeros({1}, DType::i32, x.device());
  const auto* bits = static_cast<const Bits*>(x.raw());
  const int64_t whole = is_aligned(bits) ? x.numel() / kPack<Bits> * kPack<Bits> : 0;
  launch({"all_finite", blocks_for(x.numel(), kRowThreads * kPack<Bits>, kMostBlocks), kRowThreads,
          x.device()},
         finite_kernel<Bits>, bits, x.numel(), whole, exponent, found.data<int32_t>());
  return found.item() == 0;
}

}  // namespace

double sum(const Tensor& x) {
  check_operand("sum", "x", x, x.dtype(), x.numel());
  return total<Total::sum>("sum", x, x);
}

double dot(const Tensor& a, const Tensor& b) {
  check_operand("dot", "a", a, a.dtype(), a.numel());
  check_operand("dot", "b", b, a.dtype(), a.numel());
  check_same_device("dot", a, b);
  return total<Total::dot>("dot", a, b);
}

// The second load of a value finds it in L1.
double sum_squares(const Tensor& x) {
  return dot(x, x);
}

void max_rows(const Tensor& x, const Tensor& values, const Tensor& indices) {
  const int64_t C = columns_of("max_rows", x);
  CHECK(C >= 1, "max_rows: rows of shape ", x.shape(), " are empty");
  const int64_t rows = x.numel() / C;
  check_operand("max_rows", "x", x, x.dtype(), x.numel());
  if (values) check_output("max_rows", "values", values, x.dtype(), rows);
  if (indices) check_output("max_rows", "indices", indices, DType::i64, rows);
  check_same_device("max_rows", x, values, indices);
  visit_dtype_gpu(x.dtype(), "max_rows", [&](auto type) {
    using T = decltype(type);
    const T* from = pointer<const T>(x);
    const auto run = [&]<int Threads>(std::integral_constant<int, Threads>) {
      with_packing(is_packed(C, from), [&](auto packed) {
        launch(over_rows<Threads>("max_rows", rows, x.device()),
               max_rows_kernel<Threads, packed.value, T>, from, rows, C, pointer<T>(values),
               pointer<int64_t>(indices));
      });
    };
    C <= 1024 ? run(std::integral_constant<int, kWarp>{})
              : run(std::integral_constant<int, kRowThreads>{});
  });
}

bool all_finite(const Tensor& x) {
  CHECK(x.defined(), "all_finite: x is missing");
  if (!is_floating(x.dtype()) || x.numel() == 0) return true;
  const Tensor t = x.contiguous();
  switch (t.dtype()) {
    case DType::f64:
      return finite<uint64_t>(t, 0x7ff0000000000000u);
    case DType::f32:
      return finite<uint32_t>(t, 0x7f800000u);
    case DType::bf16:
      return finite<uint16_t>(t, 0x7f80u);
    default:
      return finite<uint16_t>(t, 0x7c00u);  // f16
  }
}

}  // namespace parlo::cuda
