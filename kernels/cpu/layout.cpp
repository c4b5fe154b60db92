// Moves of data. Concatenation and patches are strided copies between views.
#include "kernels/layout.h"

#include <cstring>

#include "kernels/cpu/checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {

void concat(std::span<const Tensor> parts, int axis, const Tensor& out) {
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

namespace {

void check_rows(std::string_view function, const Tensor& table, const Tensor& index,
                const Tensor& rows) {
  CHECK(table.defined() && table.rank() == 2, function, ": expected table [V, C]");
  check_operand(function, "table", table, table.dtype(), table.numel());
  CHECK(index.defined(), function, ": index is missing");
  check_operand(function, "index", index, DType::i64, index.numel());
  check_operand(function, "rows", rows, table.dtype(), index.numel() * table.dim(1));
  const int64_t V = table.dim(0);
  for (int64_t i : index.span<int64_t>())
    CHECK(i >= 0 && i < V, function, ": index ", i, " is outside [0, ", V, ")");
}

}  // namespace

void gather_rows(const Tensor& table, const Tensor& index, const Tensor& out) {
  check_rows("gather_rows", table, index, out);
  const int64_t C = table.dim(1);
  const size_t bytes = static_cast<size_t>(C) * dtype_size(table.dtype());
  const int64_t* from = index.data<int64_t>();
  const auto* source = static_cast<const std::byte*>(table.raw());
  auto* to = static_cast<std::byte*>(out.raw());
  if (bytes == 0) return;
  parallel_for(index.numel(), row_grain(C), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      std::memcpy(to + static_cast<size_t>(i) * bytes,
                  source + static_cast<size_t>(from[i]) * bytes, bytes);
  });
}

void scatter_add_rows(const Tensor& rows, const Tensor& index, const Tensor& table) {
  check_rows("scatter_add_rows", table, index, rows);
  CHECK(!table.read_only(), "scatter_add_rows: table is a read-only mapping");
  const int64_t C = table.dim(1), n = index.numel();
  visit_float(table.dtype(), "scatter_add_rows", [&](auto type) {
    using T = decltype(type);
    const int64_t* to_row = index.data<int64_t>();
    const T* from = rows.data<T>();
    T* to = table.data<T>();
    // Split by columns: each element still sums in the order of i.
    parallel_for(C, std::max<int64_t>(16, row_grain(n)), [&](int64_t begin, int64_t end) {
      for (int64_t i = 0; i < n; ++i) {
        const T* row = from + i * C;
        T* target = to + to_row[i] * C;
        for (int64_t c = begin; c < end; ++c) target[c] += row[c];
      }
    });
  });
}

namespace {

// x as [B, h, w, (p, p, C) or (C, p, p)]: the order of the tokens' elements.
Tensor patches_of(std::string_view function, const Tensor& x, int64_t p, bool channel_last,
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

}  // namespace

void patchify(const Tensor& x, int64_t patch, bool channel_last, const Tensor& tokens) {
  const Tensor patches = patches_of("patchify", x, patch, channel_last, tokens);
  tokens.view(patches.shape()).copy_from(patches);
}

void unpatchify(const Tensor& tokens, int64_t patch, bool channel_last, const Tensor& x) {
  const Tensor patches = patches_of("unpatchify", x, patch, channel_last, tokens);
  patches.copy_from(tokens.view(patches.shape()));
}

}  // namespace parlo::cpu
