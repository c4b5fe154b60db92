// Moves of data. Concatenation and patches are strided copies between views.
#include "kernels/layout.h"

#include <cstring>

#include "kernels/cpu/checks.h"
#include "kernels/layout_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {

void concat(std::span<const Tensor> parts, int axis, const Tensor& out) {
  concat_parts(parts, axis, out);
}

namespace {

void check_indices(std::string_view function, const Tensor& table, const Tensor& index) {
  const int64_t V = table.dim(0);
  for (int64_t i : index.span<int64_t>())
    CHECK(i >= 0 && i < V, function, ": index ", i, " is outside [0, ", V, ")");
}

}  // namespace

void gather_rows(const Tensor& table, const Tensor& index, const Tensor& out) {
  check_rows("gather_rows", table, index, out);
  check_indices("gather_rows", table, index);
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
  check_indices("scatter_add_rows", table, index);
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

void patchify(const Tensor& x, int64_t patch, bool channel_last, const Tensor& tokens) {
  const Tensor patches = patches_of("patchify", x, patch, channel_last, tokens);
  tokens.view(patches.shape()).copy_from(patches);
}

void unpatchify(const Tensor& tokens, int64_t patch, bool channel_last, const Tensor& x) {
  const Tensor patches = patches_of("unpatchify", x, patch, channel_last, tokens);
  patches.copy_from(tokens.view(patches.shape()));
}

}  // namespace parlo::cpu
