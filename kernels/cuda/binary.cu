// out = a (op) b (kernels/elementwise.h) on a GPU. Floor: bytes of a, b and out once; a broadcast
// operand comes from L2. Contiguous operands go through map(); strided ones a pack of out's last
// axis a thread, where an operand's last axis is whole packs or one value repeated.
#include "kernels/binary_walk.h"

#include "kernels/cuda/map.cuh"
#include "kernels/elementwise.h"

namespace parlo::cuda {
namespace {

template <Binary F>
struct BinaryOf {
  __device__ float operator()(float a, float b) const {
    if constexpr (F == Binary::add) return a + b;
    if constexpr (F == Binary::sub) return a - b;
    if constexpr (F == Binary::mul) return a * b;
    if constexpr (F == Binary::div) return a / b;
    if constexpr (F == Binary::min) return a < b || a != a ? a : b;  // a NaN on either side stays
    if constexpr (F == Binary::max) return a > b || a != a ? a : b;
  }
};

// A BinaryWalk, innermost axis first and counted in packs; Index is 32 bits wide where all offsets
// fit.
template <class Index>
struct Walk {
  int rank;
  Index shape[Shape::kMaxRank], a[Shape::kMaxRank], b[Shape::kMaxRank];
};

// N values at p, or p's one value N times where the last axis has stride 0.
template <int N, class T>
__device__ __forceinline__ Pack<T, N> load_or_repeat(const T* p, bool repeat) {
  if constexpr (N > 1) {
    if (!repeat) return load_pack<N>(p);
  }
  Pack<T, N> x;
#pragma unroll
  for (int k = 0; k < N; ++k) x.v[k] = *p;
  return x;
}

template <int N, Binary F, class T, class Index>
__global__ void __launch_bounds__(kMapThreads)
    binary_kernel(const T* a, const T* b, Walk<Index> w, Index packs, T* out) {
  const Index step = static_cast<Index>(gridDim.x) * kMapThreads;
  for (Index i = static_cast<Index>(blockIdx.x) * kMapThreads + threadIdx.x; i < packs; i += step) {
    Index rest = i, from_a = 0, from_b = 0;
#pragma unroll
    for (int axis = 0; axis < Shape::kMaxRank; ++axis) {  // unrolled: indices known, no stack
      if (axis == w.rank) break;
      const Index next = rest / w.shape[axis], index = rest - next * w.shape[axis];
      from_a += index * w.a[axis];
      from_b += index * w.b[axis];
      rest = next;
    }
    const Pack<T, N> x = load_or_repeat<N>(a + from_a, w.a[0] == 0);
    const Pack<T, N> y = load_or_repeat<N>(b + from_b, w.b[0] == 0);
    Pack<T, N> z;
#pragma unroll
    for (int k = 0; k < N; ++k) z.v[k] = from_f32<T>(BinaryOf<F>{}(to_f32(x.v[k]), to_f32(y.v[k])));
    store_pack<N>(out + static_cast<int64_t>(i) * N, z);
  }
}

// Whether packs of N never cross a row, nor an operand's own alignment.
bool fits_packs(const BinaryWalk& w, const void* a, const void* b, const void* out, int64_t N) {
  const int last = w.shape.rank() - 1;
  const auto fits = [&](const Shape& strides, const void* p) {
    if (strides[last] == 0) return true;  // one value: no alignment needed
    bool whole = strides[last] == 1 && is_aligned(p);
    for (int i = 0; i < last; ++i) whole = whole && strides[i] % N == 0;
    return whole;
  };
  return w.shape[last] % N == 0 && is_aligned(out) && fits(w.a, a) && fits(w.b, b);
}

template <class Index>
Walk<Index> in_packs(const BinaryWalk& w, int64_t N) {
  Walk<Index> out{};
  out.rank = w.shape.rank();
  for (int i = 0; i < out.rank; ++i) {
    const int axis = out.rank - 1 - i;
    const int64_t n = i == 0 ? N : 1;
    out.shape[i] = static_cast<Index>(w.shape[axis] / n);
    out.a[i] = static_cast<Index>(w.a[axis] * n);
    out.b[i] = static_cast<Index>(w.b[axis] * n);
  }
  return out;
}

// Whether every offset, and the index plus a grid's step, fits 32 bits.
bool is_small(const BinaryWalk& w) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  int64_t a = 0, b = 0;
  for (int i = 0; i < w.shape.rank(); ++i) {
    a += (w.shape[i] - 1) * w.a[i];
    b += (w.shape[i] - 1) * w.b[i];
  }
  return w.shape.numel() < kLimit && a < kLimit && b < kLimit;
}

template <int N, Binary F, class T>
void strided(const BinaryWalk& w, const T* a, const T* b, const Tensor& out) {
  const int64_t packs = w.shape.numel() / N;
  const auto run = [&]<class Index>(Index) {
    launch({"binary", blocks_for(packs, kMapThreads), kMapThreads, out.device()},
           binary_kernel<N, F, T, Index>, a, b, in_packs<Index>(w, N), static_cast<Index>(packs),
           pointer<T>(out));
  };
  is_small(w) ? run(uint32_t{}) : run(uint64_t{});
}

template <Binary F, class T>
void binary_of(const BinaryWalk& w, const Tensor& a, const Tensor& b, const Tensor& out) {
  const T *pa = pointer<const T>(a), *pb = pointer<const T>(b);
  T* to = pointer<T>(out);
  if (w.shape.rank() == 1 && w.a[0] == 1 && w.b[0] == 1) {
    return map("binary", BinaryOf<F>{}, out, out.numel(), to, pa, pb);
  }
  if (fits_packs(w, pa, pb, to, kPack<T>)) return strided<kPack<T>, F>(w, pa, pb, out);
  strided<1, F>(w, pa, pb, out);
}

}  // namespace

void binary(Binary f, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_binary(a, b, out);
  check_same_device("binary", a, b, out);
  if (out.numel() == 0) return;
  const BinaryWalk w = simplify_binary(out.shape(), a.strides(), b.strides());
  visit_dtype_gpu(out.dtype(), "binary", [&](auto type) {
    using T = decltype(type);
    switch (f) {
      case Binary::add:
        return binary_of<Binary::add, T>(w, a, b, out);
      case Binary::sub:
        return binary_of<Binary::sub, T>(w, a, b, out);
      case Binary::mul:
        return binary_of<Binary::mul, T>(w, a, b, out);
      case Binary::div:
        return binary_of<Binary::div, T>(w, a, b, out);
      case Binary::min:
        return binary_of<Binary::min, T>(w, a, b, out);
      case Binary::max:
        return binary_of<Binary::max, T>(w, a, b, out);
    }
  });
}

}  // namespace parlo::cuda
