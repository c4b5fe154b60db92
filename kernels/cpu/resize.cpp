// Resizing, an axis after the other: x [outer, in, inner] -> y [outer, out, inner].
#include "kernels/resize.h"

#include "kernels/cpu/checks.h"
#include "kernels/resize_table.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
void apply(const ResizeTable& table, const T* x, int64_t outer, int64_t in, int64_t inner, T* y) {
  const int64_t out = table.size();
  parallel_for(outer * out, row_grain(inner * table.taps), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto i = static_cast<size_t>(r % out);
      const double* weights = table.row(r % out);
      const T* from = x + (r / out * in + table.first[i]) * inner;
      T* to = y + r * inner;
      std::fill(to, to + inner, T(0));
      for (int64_t k = 0; k < table.count[i]; ++k, from += inner) {
        const T w = static_cast<T>(weights[k]);
        for (int64_t t = 0; t < inner; ++t) to[t] += w * from[t];
      }
    }
  });
}

// One axis of x, which becomes n long; table_of(axis) maps it.
template <class TableOf>
void resize_axes(const Tensor& x, const Tensor& y, const char* function, TableOf&& table_of) {
  Tensor now = x;
  for (int axis = 2; axis < x.rank(); ++axis) {
    if (now.dim(axis) == y.dim(axis)) continue;
    const ResizeTable table = table_of(axis);
    Shape shape = now.shape();
    shape[axis] = y.dim(axis);
    const Tensor next = Tensor::empty(shape, x.dtype());
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
    visit_float(x.dtype(), function, [&](auto zero) {
      using T = decltype(zero);
      apply<T>(table, now.data<T>(), outer, now.dim(axis), inner, next.data<T>());
    });
    now = next;
  }
  y.copy_from(now);
}

}  // namespace

void resize(const Tensor& x, const Tensor& y, const ResizeArgs& args) {
  check_resize("resize", x, y, args);
  resize_axes(x, y, "resize",
              [&](int axis) { return resize_table(x.dim(axis), y.dim(axis), args); });
}

void resize_backward(const Tensor& dy, const Tensor& dx, const ResizeArgs& args) {
  check_resize("resize_backward", dy, dx, args);
  resize_axes(dy, dx, "resize_backward", [&](int axis) {
    const int64_t in = dx.dim(axis);
    return transpose(resize_table(in, dy.dim(axis), args), in);
  });
}

}  // namespace parlo::cpu
