// Strided and converting copies on one GPU, and fills: Tensor::copy_from's twin.
// Floor: bytes read + bytes written. A thread moves 16, 8 or 4 bytes where rows on both sides
// consist of them, else one element, its place found by division.
#include "tensor/copy_walk.h"
#include "tensor/cuda/launch.cuh"
#include "tensor/device_memory.h"
#include "tensor/tensor.h"

namespace parlo {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// A CopyWalk as a kernel's argument; Index is 32 bits wide where every offset fits.
template <class Index>
struct Walk {
  int rank;
  Index shape[Shape::kMaxRank], from[Shape::kMaxRank], to[Shape::kMaxRank];
};

template <class Index>
struct Offsets {
  Index from = 0, to = 0;
};

template <class Index>
__device__ Offsets<Index> offsets_of(const Walk<Index>& w, Index i) {
  Offsets<Index> at;
  // Unrolled over every rank, because an index that is not a constant would put w on the stack.
#pragma unroll
  for (int axis = Shape::kMaxRank - 1; axis > 0; --axis) {
    if (axis >= w.rank) continue;
    const Index rest = i / w.shape[axis], index = i - rest * w.shape[axis];
    at.from += index * w.from[axis];
    at.to += index * w.to[axis];
    i = rest;
  }
  at.from += i * w.from[0];
  at.to += i * w.to[0];
  return at;
}

// T: any type of the element's size, or of several of them with shapes and strides to match.
template <class T, class Index>
__global__ void __launch_bounds__(kThreads)
    copy_kernel(T* __restrict__ to, const T* __restrict__ from, Walk<Index> w, Index n) {
  const Index step = static_cast<Index>(gridDim.x) * kThreads;
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const Offsets<Index> at = offsets_of(w, i);
    to[at.to] = from[at.from];
  }
}

// The conversions of tensor/copy.cpp.
template <class To, class From>
__device__ To to_integer(From x) {
  constexpr To kLow = std::numeric_limits<To>::lowest(), kHigh = std::numeric_limits<To>::max();
  if constexpr (std::is_integral_v<From>) {
    const auto wide = static_cast<int64_t>(x);  // every integer dtype fits
    return wide < static_cast<int64_t>(kLow)
               ? kLow
               : (wide > static_cast<int64_t>(kHigh) ? kHigh : static_cast<To>(x));
  } else {
    if (x != x) return 0;
    if (x >= static_cast<From>(kHigh)) return kHigh;
    return x <= static_cast<From>(kLow) ? kLow : static_cast<To>(x);
  }
}

__device__ inline float widen(bf16_t x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
__device__ inline float widen(f16_t x) {
  return __half2float(__ushort_as_half(x.bits));
}

template <class To, class From>
__device__ To convert(From x) {
  constexpr bool kFromHalf = std::is_same_v<From, bf16_t> || std::is_same_v<From, f16_t>;
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (kFromHalf) {
    return convert<To>(widen(x));
  } else if constexpr (std::is_same_v<To, bf16_t>) {
    return {__bfloat16_as_ushort(__float2bfloat16_rn(static_cast<float>(x)))};
  } else if constexpr (std::is_same_v<To, f16_t>) {
    return {__half_as_ushort(__float2half_rn(static_cast<float>(x)))};
  } else if constexpr (std::is_integral_v<To>) {
    return to_integer<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

template <class To, class From, class Index>
__global__ void __launch_bounds__(kThreads)
    convert_kernel(To* to, const From* from, Walk<Index> w, Index n) {
  const Index step = static_cast<Index>(gridDim.x) * kThreads;
  for (Index i = static_cast<Index>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    const Offsets<Index> at = offsets_of(w, i);
    to[at.to] = convert<To>(from[at.from]);
  }
}

template <class Index>
Walk<Index> narrow(const CopyWalk& w) {
  Walk<Index> out{};
  out.rank = w.shape.rank();
  for (int i = 0; i < out.rank; ++i) {
    out.shape[i] = static_cast<Index>(w.shape[i]);
    out.from[i] = static_cast<Index>(w.from[i]);
    out.to[i] = static_cast<Index>(w.to[i]);
  }
  return out;
}

// Whether every offset, and the index plus a grid's step, fits 32 bits.
bool is_small(const CopyWalk& w) {
  constexpr int64_t kLimit = int64_t{1} << 30;
  int64_t from = 0, to = 0;
  for (int i = 0; i < w.shape.rank(); ++i) {
    from += (w.shape[i] - 1) * w.from[i];
    to += (w.shape[i] - 1) * w.to[i];
  }
  return w.shape.numel() < kLimit && from < kLimit && to < kLimit;
}

template <class Run>
void with_index(const CopyWalk& w, Run run) {
  if (is_small(w)) {
    run(narrow<uint32_t>(w), static_cast<uint32_t>(w.shape.numel()));
  } else {
    run(narrow<uint64_t>(w), static_cast<uint64_t>(w.shape.numel()));
  }
}

Launch over(const char* name, int64_t n, Device device) {
  return {name, blocks_for(n, kThreads), kThreads, device};
}

template <class T>
void copy_elements(const Tensor& dst, const Tensor& src, const CopyWalk& walk) {
  with_index(walk, [&]<class Index>(const Walk<Index>& w, Index n) {
    launch(over("copy", walk.shape.numel(), dst.device()), copy_kernel<T, Index>,
           static_cast<T*>(dst.raw()), static_cast<const T*>(src.raw()), w, n);
  });
}

// The walk in units of U; false where a row does not divide into them.
template <class U>
bool in_units(const Tensor& dst, const Tensor& src, CopyWalk& w) {
  constexpr auto kBytes = static_cast<int64_t>(sizeof(U));
  const int64_t unit = kBytes / static_cast<int64_t>(dtype_size(dst.dtype()));
  const int last = w.shape.rank() - 1;
  const auto aligned = [](const Tensor& t) {
    return reinterpret_cast<uintptr_t>(t.raw()) % kBytes == 0;
  };
  if (unit < 2) return false;
  if (w.from[last] != 1 || w.to[last] != 1 || !aligned(dst) || !aligned(src)) return false;
  if (w.shape[last] % unit != 0) return false;
  for (int i = 0; i < last; ++i) {
    if (w.from[i] % unit != 0 || w.to[i] % unit != 0) return false;
  }
  for (int i = 0; i < last; ++i) w.from[i] /= unit, w.to[i] /= unit;
  w.shape[last] /= unit;
  return true;
}

void copy_same(const Tensor& dst, const Tensor& src, CopyWalk w) {
  if (in_units<uint4>(dst, src, w)) return copy_elements<uint4>(dst, src, w);
  if (in_units<uint64_t>(dst, src, w)) return copy_elements<uint64_t>(dst, src, w);
  if (in_units<uint32_t>(dst, src, w)) return copy_elements<uint32_t>(dst, src, w);  // patches of 2
  switch (dtype_size(dst.dtype())) {
    case 8:
      return copy_elements<uint64_t>(dst, src, w);
    case 4:
      return copy_elements<uint32_t>(dst, src, w);
    case 2:
      return copy_elements<uint16_t>(dst, src, w);
    default:
      return copy_elements<uint8_t>(dst, src, w);
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    fill_kernel(T* to, T value, Walk<uint64_t> w, uint64_t n) {
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * kThreads;
  for (uint64_t i = static_cast<uint64_t>(blockIdx.x) * kThreads + threadIdx.x; i < n; i += step) {
    to[offsets_of(w, i).to] = value;
  }
}

}  // namespace
}  // namespace cuda

void copy_on_gpu(const Tensor& dst, const Tensor& src) {
  using namespace cuda;
  const CopyWalk walk = simplify_walk(dst.shape(), src.strides(), dst.strides());
  if (dst.dtype() == src.dtype()) return copy_same(dst, src, walk);
  visit_dtype(dst.dtype(), [&](auto to) {
    visit_dtype(src.dtype(), [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      if constexpr (!std::is_same_v<To, From>) {
        with_index(walk, [&]<class Index>(const Walk<Index>& w, Index n) {
          launch(over("convert", walk.shape.numel(), dst.device()), convert_kernel<To, From, Index>,
                 dst.data<To>(), static_cast<const From*>(src.data<From>()), w, n);
        });
      }
    });
  });
}

void fill_on_gpu(const Tensor& dst, double value) {
  using namespace cuda;
  if (dst.numel() == 0) return;
  const CopyWalk walk = simplify_walk(dst.shape(), dst.strides(), dst.strides());
  // Converted by the CPU, so that both devices round alike.
  const Tensor one = Tensor::full({1}, value, dst.dtype());
  visit_dtype(dst.dtype(), [&](auto type) {
    using T = decltype(type);
    launch(over("fill", walk.shape.numel(), dst.device()), fill_kernel<T>, dst.data<T>(),
           *one.data<T>(), narrow<uint64_t>(walk), static_cast<uint64_t>(walk.shape.numel()));
  });
}

}  // namespace parlo
