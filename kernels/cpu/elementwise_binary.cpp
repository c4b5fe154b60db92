// out = a (op) b over strided views: neighbouring axes are merged, then rows of the last axis run
// with unit, zero (broadcast) or any other steps.
#include "kernels/binary_walk.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/isa/elementwise_isa.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/elementwise.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
T apply(Binary f, T a, T b) {
  switch (f) {
    case Binary::add:
      return a + b;
    case Binary::sub:
      return a - b;
    case Binary::mul:
      return a * b;
    case Binary::div:
      return a / b;
    case Binary::min:
      return a < b || a != a ? a : b;  // a NaN on either side stays
    case Binary::max:
      return a > b || a != a ? a : b;
  }
  return a;
}

template <class T>
void binary_row(Binary f, const T* a, int64_t a_step, const T* b, int64_t b_step, T* out,
                int64_t n) {
  if constexpr (std::is_same_v<T, float>) {
    if ((a_step | b_step | 1) == 1)
      return PARLO_ISA_TABLE(elementwise).binary[static_cast<int>(f)](a, a_step, b, b_step, out, n);
  }
  for (int64_t i = 0; i < n; ++i) out[i] = apply(f, a[i * a_step], b[i * b_step]);
}

// Elements [begin, end) of out.
template <class T>
void binary_range(Binary f, const BinaryWalk& w, const T* a, const T* b, T* out, int64_t begin,
                  int64_t end) {
  const int last = w.shape.rank() - 1;
  const int64_t n = w.shape[last];
  while (begin < end) {
    int64_t rest = begin / n, from_a = 0, from_b = 0;
    const int64_t column = begin % n;
    for (int i = last - 1; i >= 0; --i) {
      const int64_t index = rest % w.shape[i];
      rest /= w.shape[i];
      from_a += index * w.a[i];
      from_b += index * w.b[i];
    }
    const int64_t count = std::min(n - column, end - begin);
    binary_row(f, a + from_a + column * w.a[last], w.a[last], b + from_b + column * w.b[last],
               w.b[last], out + begin, count);
    begin += count;
  }
}

}  // namespace

void binary(Binary f, const Tensor& a, const Tensor& b, const Tensor& out) {
  check_binary(a, b, out);
  if (out.numel() == 0) return;
  const BinaryWalk w = simplify_binary(out.shape(), a.strides(), b.strides());
  visit_float(out.dtype(), "binary", [&](auto type) {
    using T = decltype(type);
    const T *pa = a.data<T>(), *pb = b.data<T>();
    T* to = out.data<T>();
    parallel_for(out.numel(), kGrain,
                 [&](int64_t begin, int64_t end) { binary_range(f, w, pa, pb, to, begin, end); });
  });
}

}  // namespace parlo::cpu
