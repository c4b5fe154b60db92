// Checks of the moves of data (kernels/layout.h), and those that are copies between views. Both
// backends.
#pragma once

#include <span>

#include "kernels/checks.h"

namespace parlo {

// The values of the index are another matter.
inline void check_rows(std::string_view function, const Tensor& table, const Tensor& index,
                       const Tensor& rows) {
  CHECK(table.defined() && table.rank() == 2, function, ": expected table [V, C]");
  check_operand(function, "table", table, table.dtype(), table.numel());
  CHECK(index.defined(), function, ": index is missing");
  check_operand(function, "index", index, DType::i64, index.numel());
  check_operand(function, "rows", rows, table.dtype(), index.numel() * table.dim(1));
}

inline void concat_parts(std::span<const Tensor> parts, int axis, const Tensor& out) {
  CHECK(out.defined(), "concat: out is missing");
  if (axis < 0) axis += out.rank();
  CHECK(axis >= 0 && axis < out.rank(), "concat: axis ", axis, " does not fit shape ", out.shape());
  int64_t at = 0;
  for (const Tensor& part : parts) {
    CHECK(part.defined() && part.rank() == out.rank() && part.dtype() == out.dtype(),
          "concat: parts need rank ", out.rank(), " and dtype ", dtype_name(out.dtype()));
    const int64_t size = part.dim(axis);
    Shape expected = out.shape();
    expected[axis] = size;
    check_shape("concat", "part", part, expected);
    CHECK(at + size <= out.dim(axis), "concat: parts do not fit into ", out.shape());
    out.slice(axis, at, at + size).copy_from(part);
    at += size;
  }
  CHECK(at == out.dim(axis), "concat: parts have ", at, " along axis ", axis, ", out has ",
        out.shape());
}

// x as [B, h, w, (p, p, C) or (C, p, p)]: the order of the tokens' elements.
inline Tensor patches_of(std::string_view function, const Tensor& x, int64_t p, bool channel_last,
                         const Tensor& tokens) {
  CHECK(x.defined() && x.rank() == 4 && p >= 1 && x.dim(2) % p == 0 && x.dim(3) % p == 0, function,
        ": expected x [B, C, H, W] with H and W multiples of ", p, ", got ",
        x.defined() ? to_string(x.shape()) : "(nothing)");
  check_operand(function, "x", x, x.dtype(), x.numel());
  const int64_t B = x.dim(0), C = x.dim(1), h = x.dim(2) / p, w = x.dim(3) / p;
  check_operand(function, "tokens", tokens, x.dtype(), x.numel());
  check_shape(function, "tokens", tokens, {B, h * w, p * p * C});
  const Tensor split = x.view({B, C, h, p, w, p});
  return channel_last ? split.permute({0, 2, 4, 3, 5, 1}) : split.permute({0, 2, 4, 1, 3, 5});
}

}  // namespace parlo
