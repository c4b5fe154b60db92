// Checks of collective operands that both backends make; messages name what this rank gave.
#pragma once

#include <string_view>

#include "kernels/collective.h"
#include "tensor/error.h"

namespace parlo {

inline void check_collective(std::string_view function, std::string_view name, const Tensor& t,
                             bool written) {
  CHECK(t.defined(), function, ": ", name, " is missing");
  CHECK(t.is_contiguous(), function, ": ", name, " of shape ", t.shape(),
        " is not contiguous; call contiguous() first");
  CHECK(!written || !t.read_only(), function, ": ", name, " is a read-only mapping");
}

inline void check_all_reduce(const Tensor& t) {
  check_collective("all_reduce_sum", "t", t, true);
  const DType d = t.dtype();
  CHECK(d == DType::f32 || d == DType::f64 || d == DType::bf16 || d == DType::i64,
        "all_reduce_sum: t has dtype ", dtype_name(d), ", expected f32, f64, bf16 or i64");
}

inline void check_broadcast(const Tensor& t, int root, int rank, int size) {
  CHECK(root >= 0 && root < size, "broadcast: root is ", root, ", expected 0 to ", size - 1);
  check_collective("broadcast", "t", t, rank != root);
}

inline void check_all_gather(const Tensor& mine, const Tensor& all, int size) {
  check_collective("all_gather", "mine", mine, false);
  check_collective("all_gather", "all", all, true);
  CHECK(all.dtype() == mine.dtype(), "all_gather: all has dtype ", dtype_name(all.dtype()),
        ", expected ", dtype_name(mine.dtype()));
  bool fits = all.rank() == mine.rank() + 1 && all.dim(0) == size;
  for (int i = 0; fits && i < mine.rank(); ++i) fits = all.dim(i + 1) == mine.dim(i);
  CHECK(fits, "all_gather: all has shape ", all.shape(), ", expected [", size,
        ", shape of mine] with mine ", mine.shape());
  CHECK(all.device() == mine.device(), "all_gather: mine is on ", to_string(mine.device()),
        " and all on ", to_string(all.device()));
}

}  // namespace parlo
