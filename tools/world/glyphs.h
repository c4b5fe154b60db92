// Text as coverage, from DejaVu Sans Bold by FreeType, rendered four times too large and averaged
// down.
#pragma once

#include <string_view>
#include <vector>

namespace parlo {

// Coverage 0..1 of a square picture of side `size`.
struct Mask {
  int size = 0;
  std::vector<float> share;
};

// The text with its ink box `width` wide, or less when the capitals would be higher than `height`,
// centred at (x, y); pixels. Throws Error without FreeType or the font.
Mask text_mask(std::string_view text, int size, float x, float y, float width, float height);

}  // namespace parlo
