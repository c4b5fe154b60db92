// An 8-bit RGB picture: rows from the top, interleaved channels (HWC).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace parlo {

struct Image {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;

  Image() = default;
  Image(int w, int h) : width(w), height(h), rgb(size_t(w) * h * 3) {}
  uint8_t* at(int x, int y) { return &rgb[(size_t(y) * width + x) * 3]; }
  const uint8_t* at(int x, int y) const { return &rgb[(size_t(y) * width + x) * 3]; }
  bool operator==(const Image&) const = default;
};

}  // namespace parlo
