#include "kernels/cuda/linear_parts.h"

#include <atomic>

#include "kernels/cuda/linear_path.h"

namespace parlo::cuda {
namespace {

std::atomic<LinearPath> chosen_path{LinearPath::automatic};

using Parts = std::span<const LowRankRows>;

// The rows of these parts; `segments` is room for their adapters.
HopperProduct product_of(const HopperProduct& whole, Parts parts,
                         std::vector<LowRankRows>& segments) {
  const int64_t begin = parts.front().first, end = parts.back().first + parts.back().rows;
  segments.clear();
  for (const LowRankRows& part : parts) {
    if (!part.low_rank.a) continue;
    segments.push_back(part);
    segments.back().first -= begin;
  }
  HopperProduct p{whole.x.slice(0, begin, end),           whole.w,
                  whole.y.slice(0, begin, end),           whole.turned,
                  linear_args_of(whole.args, begin, end), whole.glu};
  p.args.low_rank_rows = segments;
  return p;
}

bool is_for_hopper(const HopperProduct& whole, const LowRankRows& part) {
  const bool plain = whole.args.activation == Activation::none;
  // What cuBLASLt has no epilogue for.
  const bool lacking =
      part.low_rank.a || (whole.args.residual && !plain) || whole.args.gate.values || whole.glu;
  const LinearPath path = linear_path();
  if (path == LinearPath::library || (path == LinearPath::automatic && !lacking)) return false;
  std::vector<LowRankRows> room;
  return takes_gemm_sm90(product_of(whole, {&part, 1}, room));
}

}  // namespace

LinearPath linear_path() {
  return chosen_path;
}
UseLinearPath::UseLinearPath(LinearPath path) : before_(chosen_path.exchange(path)) {}
UseLinearPath::~UseLinearPath() {
  chosen_path = before_;
}

void run_linear_parts(const HopperProduct& whole, const std::vector<LowRankRows>& parts,
                      const std::function<void(const HopperProduct&, const LowRank*)>& library) {
  std::vector<LowRankRows> segments;
  const Parts all = parts;
  for (size_t i = 0; i < parts.size();) {
    size_t end = i;
    while (end < parts.size() && is_for_hopper(whole, parts[end])) ++end;
    if (end > i) {
      gemm_sm90(product_of(whole, all.subspan(i, end - i), segments));
      i = end;
      continue;
    }
    HopperProduct rows = product_of(whole, all.subspan(i, 1), segments);
    rows.args.low_rank_rows = {};
    library(rows, parts[i].low_rank.a ? &parts[i].low_rank : nullptr);
    ++i;
  }
}

}  // namespace parlo::cuda
