#include "kernels/cpu/collective_sum.h"

#include <algorithm>
#include <array>
#include <type_traits>

#include "tensor/error.h"

namespace parlo::cpu {
namespace {

// Elements a pass: the running sums stay in the L1.
constexpr size_t kBlock = 1024;

template <class T>
auto widen(T x) {
  if constexpr (std::is_same_v<T, bf16_t>) {
    return to_float(x);
  } else if constexpr (std::is_same_v<T, int64_t>) {
    return static_cast<uint64_t>(x);  // signed overflow is undefined
  } else {
    return x;
  }
}

template <class T, class Wide>
T narrow(Wide x) {
  if constexpr (std::is_same_v<T, bf16_t>) {
    return to_bf16(x);
  } else {
    return static_cast<T>(x);
  }
}

template <class T>
void sum(std::span<const std::byte* const> parts, std::byte* out, size_t count) {
  using Wide = decltype(widen(T{}));
  std::array<Wide, kBlock> total;
  for (size_t begin = 0; begin < count; begin += kBlock) {
    const size_t n = std::min(kBlock, count - begin);
    for (size_t rank = 0; rank < parts.size(); ++rank) {
      const T* part = reinterpret_cast<const T*>(parts[rank]) + begin;
      if (rank == 0) {
        for (size_t i = 0; i < n; ++i) total[i] = widen(part[i]);
      } else {
        for (size_t i = 0; i < n; ++i) total[i] += widen(part[i]);
      }
    }
    T* to = reinterpret_cast<T*>(out) + begin;
    for (size_t i = 0; i < n; ++i) to[i] = narrow<T>(total[i]);
  }
}

}  // namespace

void sum_parts(DType dtype, std::span<const std::byte* const> parts, std::byte* out, size_t bytes) {
  const size_t count = bytes / dtype_size(dtype);
  switch (dtype) {
    case DType::f32:
      return sum<float>(parts, out, count);
    case DType::f64:
      return sum<double>(parts, out, count);
    case DType::bf16:
      return sum<bf16_t>(parts, out, count);
    case DType::i64:
      return sum<int64_t>(parts, out, count);
    default:
      throw Error(concat("all_reduce_sum: no sums of ", dtype_name(dtype)));
  }
}

}  // namespace parlo::cpu
