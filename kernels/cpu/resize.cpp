// Resizing, an axis after the other: x [outer, in, inner] -> y [outer, out, inner].
#include "kernels/resize.h"

#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/resize_table.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// Every result is one element: nearest.
bool copies(const ResizeTable& table) {
  for (int64_t i = 0; i < table.size(); ++i) {
    if (table.count[static_cast<size_t>(i)] != 1 || table.row(i)[0] != 1) return false;
  }
  return true;
}

// Results [begin, end) of one line or plane of x: y[i] = sum over k of w[i, k] x[first(i) + k].
template <class T>
void apply_part(const ResizeTable& table, bool copy, const T* x, int64_t inner, int64_t begin,
                int64_t end, T* y) {
  for (int64_t i = begin; i < end; ++i, y += inner) {
    const T* from = x + table.first[static_cast<size_t>(i)] * inner;
    if (copy) {
      if (inner == 1) {
        *y = *from;
      } else {
        std::copy(from, from + inner, y);
      }
      continue;
    }
    std::fill(y, y + inner, T(0));
    for (int64_t k = 0; k < table.count[static_cast<size_t>(i)]; ++k, from += inner) {
      const T w = static_cast<T>(table.row(i)[k]);
      for (int64_t t = 0; t < inner; ++t) y[t] += w * from[t];
    }
  }
}

template <class T>
void apply(const ResizeTable& table, const T* x, int64_t outer, int64_t in, int64_t inner, T* y) {
  const int64_t out = table.size();
  const bool copy = copies(table);
  parallel_for(outer * out, row_grain(inner * table.taps), [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t o = begin / out, i = begin % out, last = std::min(out, i + end - begin);
      apply_part(table, copy, x + o * in * inner, inner, i, last, y + begin * inner);
      begin += last - i;
    }
  });
}

// One axis of x, which becomes n long; table_of(axis) maps it.
template <class TableOf>
void resize_axes(const Tensor& x, const Tensor& y, const char* function, TableOf&& table_of) {
  int last = 0;
  for (int axis = 2; axis < x.rank(); ++axis) {
    if (x.dim(axis) != y.dim(axis)) last = axis;
  }
  if (last == 0) return y.copy_from(x);
  Tensor now = x;
  for (int axis = 2; axis <= last; ++axis) {
    if (now.dim(axis) == y.dim(axis)) continue;
    const ResizeTable table = table_of(axis);
    Shape shape = now.shape();
    shape[axis] = y.dim(axis);
    const Tensor next = axis == last ? y : Tensor::empty(shape, x.dtype());
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < axis; ++i) outer *= shape[i];
    for (int i = axis + 1; i < shape.rank(); ++i) inner *= shape[i];
    visit_float(x.dtype(), function, [&](auto zero) {
      using T = decltype(zero);
      apply<T>(table, now.data<T>(), outer, now.dim(axis), inner, next.data<T>());
    });
    now = next;
  }
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
