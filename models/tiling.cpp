#include "models/tiling.h"

#include <algorithm>
#include <vector>

#include "autograd/ops.h"

namespace parlo {
namespace {

// Factors of the first n elements of b, as they go from a to b; `rising` those of b itself.
Var ramp(int64_t n, int axis, bool rising, const Var& like) {
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) {
    const double t = static_cast<double>(i) / static_cast<double>(n);
    values.push_back(rising ? t : 1 - t);
  }
  const Shape shape = axis == 2 ? Shape{1, 1, n, 1} : Shape{1, 1, 1, n};
  return Var(Tensor::from(values, shape).to(like.dtype()).to(like.value().device()));
}

// b with its first elements along the axis mixed with the last ones of a.
Var blend(const Var& a, const Var& b, int64_t extent, int axis) {
  const int64_t n = std::min({a.dim(axis), b.dim(axis), extent});
  if (n == 0) return b;
  const Var tail = slice(a, axis, a.dim(axis) - n, a.dim(axis)), head = slice(b, axis, 0, n);
  const Var mixed = add(mul(tail, ramp(n, axis, false, b)), mul(head, ramp(n, axis, true, b)));
  if (n == b.dim(axis)) return mixed;
  return cat(std::vector<Var>{mixed, slice(b, axis, n, b.dim(axis))}, axis);
}

Var cropped(const Var& x, int64_t keep) {
  const Var rows = slice(x, 2, 0, std::min(keep, x.dim(2)));
  return slice(rows, 3, 0, std::min(keep, x.dim(3)));
}

}  // namespace

Var map_tiles(const Var& x, const Tiling& t, const std::function<Var(const Var&)>& fn) {
  CHECK(x.rank() == 4 && t.stride > 0 && t.stride <= t.tile && t.keep > 0,
        "map_tiles: x has shape ", x.shape(), ", tiles of ", t.tile, " every ", t.stride,
        " of which ", t.keep, " are kept: expected [B, C, H, W] and sizes > 0");
  const int64_t height = x.dim(2), width = x.dim(3);
  std::vector<Var> above, lines;
  for (int64_t i = 0; i < height; i += t.stride) {
    std::vector<Var> row, kept;
    const Var line = slice(x, 2, i, std::min(height, i + t.tile));
    for (int64_t j = 0; j < width; j += t.stride) {
      Var tile = fn(slice(line, 3, j, std::min(width, j + t.tile)));
      if (!above.empty()) tile = blend(above[row.size()], tile, t.blend, 2);
      if (!row.empty()) tile = blend(row.back(), tile, t.blend, 3);
      row.push_back(tile);
      kept.push_back(cropped(tile, t.keep));
    }
    above = std::move(row);
    lines.push_back(cat(kept, 3));
  }
  return cat(lines, 2);
}

}  // namespace parlo
