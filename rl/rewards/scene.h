// The vocabulary of the built-in world "signs": shapes, colours and places, as the renderer draws
// them and as the detector names them. Shapes live in the unit box, v pointing down.
#pragma once

#include <array>
#include <cmath>
#include <string_view>

namespace parlo {

// Object classes, in the order of their index.
inline constexpr std::array<std::string_view, 4> kShapes = {"circle", "square", "triangle",
                                                            "cross"};
inline constexpr float kCrossArm = 0.36f;  // arm width of the cross, as a share of its box

struct NamedHue {
  std::string_view name;
  float degrees;
};
inline constexpr std::array<NamedHue, 6> kColors = {
    {{"red", 0}, {"yellow", 52}, {"green", 120}, {"cyan", 180}, {"blue", 232}, {"purple", 295}}};

// Directions of GenEval's position prompts; kOpposite[i] is the index of the reverse of i.
inline constexpr std::array<std::string_view, 4> kRelations = {"left of", "right of", "above",
                                                               "below"};
inline constexpr std::array<int, 4> kOpposite = {1, 0, 3, 2};

inline bool inside_shape(int shape, float u, float v) {
  if (u < 0 || u > 1 || v < 0 || v > 1) return false;
  const float du = std::fabs(u - 0.5f), dv = std::fabs(v - 0.5f);
  switch (shape) {
    case 0:
      return du * du + dv * dv <= 0.25f;
    case 1:
      return true;
    case 2:
      return du <= 0.5f * v;
    default:
      return du <= 0.5f * kCrossArm || dv <= 0.5f * kCrossArm;
  }
}

}  // namespace parlo
