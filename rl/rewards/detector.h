// Finds the coloured shapes of a scene from pixels alone: chroma threshold, connected components
// of like hue, then hue by circular mean and shape by zoning (coverage of a 5x5 grid over the
// component's box against the ideal shapes). Made for flat objects on a pale background.
//
// Known holes: objects that touch and share a hue merge into one; pale objects (chroma <= 60) are
// not seen; a blob without the outline of any shape is left out; the background, texture and exact
// outline go unjudged.
#pragma once

#include <vector>

#include "rl/rewards/image.h"

namespace parlo {

struct Detection {
  int shape = 0;                         // index into kShapes
  int color = 0;                         // index into kColors
  float x0 = 0, y0 = 0, x1 = 0, y1 = 0;  // sub-pixel box
  int pixels = 0;                        // area of the component
};

// Ordered by the first pixel of each component, row by row.
std::vector<Detection> detect_shapes(const Image& image);

}  // namespace parlo
