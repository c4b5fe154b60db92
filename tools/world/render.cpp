#include "tools/world/render.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <utility>

#include "rl/rewards/scene.h"
#include "tensor/error.h"
#include "tensor/philox.h"
#include "tools/world/glyphs.h"

namespace parlo {
namespace {

using Rgb = std::array<float, 3>;  // 0..1

class Dice {
 public:
  explicit Dice(RandomKey key) : random_(key) {}
  float between(float low, float high) { return low + (high - low) * random_.uniform(); }
  float around(float middle, float spread) { return between(middle - spread, middle + spread); }
  int below(int n) { return static_cast<int>(random_.below(static_cast<uint32_t>(n))); }

 private:
  Random random_;
};

Rgb rgb_of_hsv(float hue, float saturation, float value) {
  const auto channel = [&](float offset) {
    const float k = std::fmod(offset + hue / 60 + 6, 6.0f);
    return value - value * saturation * std::clamp(std::min(k, 4 - k), 0.0f, 1.0f);
  };
  return {channel(5), channel(3), channel(1)};
}

class Canvas {
 public:
  explicit Canvas(const Rgb& background) : pixels_(size_t{kWorldSize} * kWorldSize, background) {}

  void paint(int x, int y, float share, const Rgb& color) {
    Rgb& pixel = pixels_[size_t(y) * kWorldSize + x];
    for (int c = 0; c < 3; ++c) pixel[c] += share * (color[c] - pixel[c]);
  }

  // Averages 4x4 samples a pixel.
  void shape(int kind, float x, float y, float side, const Rgb& color) {
    const float left = x - side / 2, top = y - side / 2;
    const int x0 = std::max(0, static_cast<int>(left)), y0 = std::max(0, static_cast<int>(top));
    const int x1 = std::min(kWorldSize - 1, static_cast<int>(left + side));
    const int y1 = std::min(kWorldSize - 1, static_cast<int>(top + side));
    for (int py = y0; py <= y1; ++py)
      for (int px = x0; px <= x1; ++px) {
        int inside = 0;
        for (int s = 0; s < 16; ++s)
          inside += inside_shape(kind, (px + (s % 4 + 0.5f) / 4 - left) / side,
                                 (py + (s / 4 + 0.5f) / 4 - top) / side);
        if (inside > 0) paint(px, py, inside / 16.0f, color);
      }
  }

  Image image() const {
    Image out(kWorldSize, kWorldSize);
    for (size_t i = 0; i < pixels_.size(); ++i)
      for (int c = 0; c < 3; ++c)
        out.rgb[i * 3 + c] = static_cast<uint8_t>(std::lround(pixels_[i][c] * 255));
    return out;
  }

 private:
  std::vector<Rgb> pixels_;
};

Rgb draw_color(const std::string& name, Dice& dice) {
  for (const NamedHue& color : kColors)
    if (color.name == name)
      return rgb_of_hsv(dice.around(color.degrees, 12), dice.between(0.75f, 1),
                        dice.between(0.6f, 0.85f));
  throw UsageError(concat("render: the world has no colour '", name, "'"));
}

int shape_index(const std::string& name) {
  for (size_t i = 0; i < kShapes.size(); ++i)
    if (kShapes[i] == name) return static_cast<int>(i);
  throw UsageError(concat("render: the world has no shape '", name, "'"));
}

// Side for a nominal size: shapes that fill less of their box get a larger one.
float side_of(int shape, float size) {
  constexpr std::array<float, kShapes.size()> kScale = {1.0f, 0.9f, 1.08f, 1.04f};
  return size * kScale[shape];
}

using Point = std::pair<float, float>;

// `count` of the four quarters of the picture, each with its own jitter.
std::vector<Point> quarters(int count, Dice& dice) {
  std::array<int, 4> order = {0, 1, 2, 3};
  for (int i = 3; i > 0; --i) std::swap(order[i], order[dice.below(i + 1)]);
  const float x = dice.around(0, 0.8f), y = dice.around(0, 0.8f);  // moves the whole group
  std::vector<Point> points;
  for (int i = 0; i < count; ++i)
    points.emplace_back(8.3f + 15.4f * (order[i] % 2) + x + dice.around(0, 1.2f),
                        8.3f + 15.4f * (order[i] / 2) + y + dice.around(0, 1.2f));
  return points;
}

// Two places, the second in the given relation to the first.
std::vector<Point> related(std::string_view relation, Dice& dice) {
  const auto index = std::find(kRelations.begin(), kRelations.end(), relation);
  if (index == kRelations.end())
    throw UsageError(concat("render: the world has no position '", relation, "'"));
  const auto kind = index - kRelations.begin();
  float low = dice.around(8.5f, 1.2f), high = dice.around(23.5f, 1.2f);
  if (kind % 2 == 0) std::swap(low, high);  // the second object is left of or above the first
  const float across = dice.around(16, 2.5f);
  const float a = across + dice.around(0, 2), b = across + dice.around(0, 2);
  if (kind < 2) return {{low, a}, {high, b}};
  return {{a, low}, {b, high}};
}

void draw_text(const Prompt& prompt, Canvas& canvas, Dice& dice) {
  std::string upper;
  for (char c : prompt.word)
    upper += static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  if (upper.empty()) throw UsageError(concat("render: '", prompt.text, "' quotes no text"));
  const Rgb color = draw_color(prompt.objects.empty() ? "red" : prompt.objects[0].color, dice);
  // Little jitter on purpose: spread over the whole free area, a small model learns no letters.
  const float x = dice.around(16, 1), y = dice.around(16, 1.5f);
  const float width = dice.between(26, 28.5f);
  const Mask mask = text_mask(upper, kWorldSize, x, y, width, width / 2);
  for (int py = 0; py < kWorldSize; ++py)
    for (int px = 0; px < kWorldSize; ++px)
      canvas.paint(px, py, mask.share[size_t(py) * kWorldSize + px], color);
}

void draw_shapes(const Prompt& prompt, Canvas& canvas, Dice& dice) {
  int total = 0;
  for (const Object& object : prompt.objects) total += object.count;
  if (total < 1 || total > 4)
    throw UsageError(
        concat("render: '", prompt.text, "' asks for ", total, " shapes, expected 1..4"));
  const bool pair = prompt.objects.size() == 2 && !prompt.objects[1].relation.empty();
  std::vector<Point> places =
      pair ? related(prompt.objects[1].relation, dice) : quarters(total, dice);
  if (total == 1) places = {{dice.around(16, 4.5f), dice.around(16, 4.5f)}};
  const float size = total == 1 ? dice.between(10, 13.5f) : dice.between(9, 11);
  size_t place = 0;
  for (const Object& object : prompt.objects) {
    const int kind = shape_index(object.name);
    const Rgb color = draw_color(object.color, dice);  // one shade for equal shapes
    for (int i = 0; i < object.count; ++i, ++place)
      canvas.shape(kind, places[place].first, places[place].second,
                   side_of(kind, size * dice.between(0.95f, 1.05f)), color);
  }
}

}  // namespace

Image render(const Prompt& prompt, uint64_t seed) {
  Dice dice(RandomKey(seed).fold("signs").fold(prompt.text));
  Canvas canvas(rgb_of_hsv(dice.between(0, 360), dice.between(0, 0.1f), dice.between(0.86f, 1)));
  if (prompt.tag == "text")
    draw_text(prompt, canvas, dice);
  else
    draw_shapes(prompt, canvas, dice);
  return canvas.image();
}

}  // namespace parlo
