// Strided and converting copies behind Tensor::copy_from, fill and to_vector.
#include <array>
#include <cstring>
#include <limits>
#include <utility>

#include "tensor/copy_walk.h"
#include "tensor/device_memory.h"
#include "tensor/parallel.h"
#include "tensor/tensor.h"

namespace parlo {

CopyWalk simplify_walk(const Shape& shape, const Shape& from, const Shape& to) {
  CopyWalk w;
  for (int i = 0; i < shape.rank(); ++i) {
    if (shape[i] == 1) continue;
    const int last = w.shape.rank() - 1;
    if (last >= 0 && w.from[last] == shape[i] * from[i] && w.to[last] == shape[i] * to[i]) {
      w.shape[last] *= shape[i];
      w.from[last] = from[i];
      w.to[last] = to[i];
    } else {
      w.shape.push_back(shape[i]);
      w.from.push_back(from[i]);
      w.to.push_back(to[i]);
    }
  }
  if (w.shape.rank() == 0) w = {{1}, {1}, {1}};
  return w;
}

namespace {

// Stops at the ends of the integer's range; NaN becomes 0. A plain cast is undefined there.
template <class To, class From>
To to_integer(From x) {
  constexpr To kLow = std::numeric_limits<To>::lowest(), kHigh = std::numeric_limits<To>::max();
  if constexpr (std::is_integral_v<From>) {
    return std::cmp_less(x, kLow) ? kLow
                                  : (std::cmp_greater(x, kHigh) ? kHigh : static_cast<To>(x));
  } else {
    if (x != x) return 0;
    // The upper end may round up to a power of two, which is itself out of range.
    if (x >= static_cast<From>(kHigh)) return kHigh;
    return x <= static_cast<From>(kLow) ? kLow : static_cast<To>(x);
  }
}

template <class To, class From>
To convert(From x) {
  constexpr bool kFromHalf = std::is_same_v<From, bf16_t> || std::is_same_v<From, f16_t>;
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (kFromHalf) {
    return convert<To>(to_float(x));
  } else if constexpr (std::is_same_v<To, bf16_t>) {
    return to_bf16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, f16_t>) {
    return to_f16(static_cast<float>(x));
  } else if constexpr (std::is_integral_v<To>) {
    return to_integer<To>(x);
  } else {
    return static_cast<To>(x);
  }
}

template <class To, class From>
void copy_row(To* to, int64_t to_step, const From* from, int64_t from_step, int64_t n) {
  if (to_step == 1 && from_step == 1) {
    if constexpr (std::is_same_v<To, From>) {
      std::memcpy(to, from, n * sizeof(To));
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = convert<To>(from[i]);
    }
    return;
  }
  for (int64_t i = 0; i < n; ++i) to[i * to_step] = convert<To>(from[i * from_step]);
}

template <class To, class From>
void copy_strided(To* to, const From* from, const CopyWalk& w) {
  const int axes = w.shape.rank() - 1;
  const int64_t n = w.shape[axes];
  int64_t rows = 1;
  for (int i = 0; i < axes; ++i) rows *= w.shape[i];
  if (n == 0 || rows == 0) return;
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 15) / n);
  parallel_for(rows, grain, [&](int64_t begin, int64_t end) {
    std::array<int64_t, Shape::kMaxRank> index{};
    int64_t rest = begin, a = 0, b = 0;
    for (int i = axes - 1; i >= 0; --i) {
      index[i] = rest % w.shape[i];
      rest /= w.shape[i];
      a += index[i] * w.to[i];
      b += index[i] * w.from[i];
    }
    for (int64_t row = begin; row < end; ++row) {
      copy_row(to + a, w.to[axes], from + b, w.from[axes], n);
      for (int i = axes - 1; i >= 0; --i) {  // count up
        a += w.to[i];
        b += w.from[i];
        if (++index[i] < w.shape[i]) break;
        a -= index[i] * w.to[i];
        b -= index[i] * w.from[i];
        index[i] = 0;
      }
    }
  });
}

// Last byte a view touches, counted from its first; strides are not negative.
size_t extent(const Tensor& t) {
  int64_t last = 0;
  for (int i = 0; i < t.rank(); ++i) last += (t.dim(i) - 1) * t.strides()[i];
  return static_cast<size_t>(last + 1) * dtype_size(t.dtype());
}

bool may_overlap(const Tensor& a, const Tensor& b) {
  if (a.storage() != b.storage()) return false;
  const auto *pa = static_cast<const std::byte*>(a.raw()),
             *pb = static_cast<const std::byte*>(b.raw());
  const bool same = pa == pb && a.strides() == b.strides() && a.dtype() == b.dtype();
  return !same && pa < pb + extent(b) && pb < pa + extent(a);
}

// Between devices only whole blocks move: what is strided or converted is so on the source's side,
// or on the destination's where that is the GPU.
void copy_across(const Tensor& dst, const Tensor& src) {
  if (src.dtype() == dst.dtype() && src.is_contiguous() && dst.is_contiguous()) {
    copy_memory(dst.raw(), dst.device(), src.raw(), src.device(), src.nbytes());
    return;
  }
  const Tensor whole = src.contiguous();
  Tensor there = Tensor::empty(src.shape(), src.dtype(), dst.device());
  copy_memory(there.raw(), dst.device(), whole.raw(), src.device(), whole.nbytes());
  dst.copy_from(there);
}

}  // namespace

void Tensor::copy_from(const Tensor& src) const {
  check_shape("Tensor::copy_from", "source", src, shape_);
  CHECK(!read_only(), "Tensor::copy_from: destination is a read-only mapping");
  if (numel() == 0) return;
  for (int i = 0; i < rank(); ++i)
    CHECK(shape_[i] == 1 || strides_[i] != 0, "Tensor::copy_from: destination of shape ", shape_,
          " repeats its elements along axis ", i, "; clone() it first");
  if (may_overlap(*this, src)) return copy_from(src.clone());
  if (device().is_meta()) return;
  if (src.device().is_meta()) return fill(0);
  if (!(device() == src.device())) return copy_across(*this, src);
  if (device().is_cuda()) return copy_on_gpu(*this, src);
  const CopyWalk w = simplify_walk(shape_, src.strides_, strides_);
  visit_dtype(dtype_, [&](auto to) {
    visit_dtype(src.dtype_, [&](auto from) {
      copy_strided(data<decltype(to)>(), src.data<decltype(from)>(), w);
    });
  });
}

void Tensor::fill(double value) const {
  if (device().is_meta()) return;
  if (device().is_cuda()) return fill_on_gpu(*this, value);
  Tensor one = empty(Shape{}, DType::f64);
  *one.data<double>() = value;
  copy_from(one.expand(shape_));
}

std::vector<double> Tensor::to_vector() const {
  const Tensor t = to(Device{}).to(DType::f64).contiguous();
  const auto values = t.span<double>();
  return {values.begin(), values.end()};
}

}  // namespace parlo
