// A map of large images done tile by tile, the tiles overlapping and blended, exactly as diffusers'
// AutoencoderKL does it: a tile is blended with the one above it, then with the one to its left
// (both already blended), linearly over `blend` elements, and its first `keep` elements are kept.
#pragma once

#include <functional>

#include "autograd/var.h"

namespace parlo {

struct Tiling {
  int64_t tile = 0, stride = 0;  // of the input's height and width
  int64_t blend = 0, keep = 0;   // of the output's
};

// x [B, C, H, W]; fn maps a tile (smaller ones at the right and at the bottom) to its image.
// Outputs of two rows of tiles are held at a time, besides the result.
Var map_tiles(const Var& x, const Tiling& tiling, const std::function<Var(const Var&)>& fn);

}  // namespace parlo
