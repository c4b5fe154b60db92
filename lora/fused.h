// One low-rank pair of a fused linear (queries, keys, values, sometimes the MLP's first layer, row
// upon row) from and to the pairs of its parts. Both directions keep every update as it is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lora/peft.h"

namespace parlo {

// n = 3 parts of equal width, or 4: three as wide as the input and the rest. Where B is block
// diagonal, every part gets its own rows of A (parts without any are absent, views otherwise);
// else all share A. Throws Error naming `where` when the rows cannot be divided so.
std::vector<std::optional<AdapterPair>> split_fused(const AdapterPair& fused, size_t n,
                                                    const std::string& where);

// The inverse; an absent part (null) counts as zero. Parts with one A and one scale keep that A,
// others are stacked with a block-diagonal B, whose ranks add.
AdapterPair fuse_parts(const std::vector<const AdapterPair*>& parts);

// (first; second) -> (second; first) of the rows.
Tensor swap_row_halves(const Tensor& t);

}  // namespace parlo
