#include "rl/rewards/detector.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <optional>

#include "rl/rewards/scene.h"

namespace parlo {
namespace {

constexpr int kMinChroma = 60;      // of 255; the world's backgrounds stay below 26
constexpr float kMinShare = 0.02f;  // of the image; smaller ones are specks, 4x4 patches among them
constexpr float kMaxShare = 0.45f;  // larger ones are background
constexpr float kMaxHueStep = 45.0f;  // degrees between neighbours of one component
constexpr float kMaxAspect = 1.8f;
constexpr int kZones = 5;
// Steepens edges around half coverage: a blurred square keeps its corners (at a Gaussian blur of
// 0.9 pixels 23 % of the squares were called circles without it).
constexpr float kSharpen = 2.0f;
// Root mean square distance to the nearest ideal shape; at 0.25, a tenth of the triangles blurred
// by 0.9 pixels were lost.
constexpr float kMaxShapeDistance = 0.30f;

using Zones = std::array<float, kZones * kZones>;

struct Hsv {
  int chroma;
  float hue;  // degrees
};

Hsv chroma_and_hue(const uint8_t* p) {
  const int r = p[0], g = p[1], b = p[2];
  const int top = std::max({r, g, b}), chroma = top - std::min({r, g, b});
  if (chroma == 0) return {0, 0};
  const float c = static_cast<float>(chroma);
  float sextant = 0;
  if (top == r)
    sextant = (g - b) / c;
  else if (top == g)
    sextant = 2 + (b - r) / c;
  else
    sextant = 4 + (r - g) / c;
  return {chroma, sextant < 0 ? sextant * 60 + 360 : sextant * 60};
}

float hue_distance(float a, float b) {
  const float d = std::fabs(a - b);
  return std::min(d, 360 - d);
}

// Labels pixels of like hue that touch along an edge; 0 is background.
class Components {
 public:
  explicit Components(const Image& image) : w_(image.width), h_(image.height) {
    pixels_.resize(size_t(w_) * h_);
    labels_.assign(pixels_.size(), 0);
    for (size_t i = 0; i < pixels_.size(); ++i) pixels_[i] = chroma_and_hue(&image.rgb[i * 3]);
    for (size_t i = 0; i < pixels_.size(); ++i)
      if (labels_[i] == 0 && pixels_[i].chroma > kMinChroma) flood(static_cast<int>(i));
  }
  const std::vector<std::vector<int>>& members() const { return members_; }
  const Hsv& pixel(int i) const { return pixels_[i]; }

 private:
  void flood(int start) {
    const int label = static_cast<int>(members_.size()) + 1;
    std::vector<int> found = {start};
    labels_[start] = label;
    for (size_t next = 0; next < found.size(); ++next) {
      const int i = found[next], x = i % w_, y = i / w_;
      if (x > 0) visit(i - 1, i, label, found);
      if (x + 1 < w_) visit(i + 1, i, label, found);
      if (y > 0) visit(i - w_, i, label, found);
      if (y + 1 < h_) visit(i + w_, i, label, found);
    }
    members_.push_back(std::move(found));
  }
  void visit(int i, int from, int label, std::vector<int>& found) {
    if (labels_[i] != 0 || pixels_[i].chroma <= kMinChroma) return;
    if (hue_distance(pixels_[i].hue, pixels_[from].hue) > kMaxHueStep) return;
    labels_[i] = label;
    found.push_back(i);
  }

  int w_, h_;
  std::vector<Hsv> pixels_;
  std::vector<int> labels_;
  std::vector<std::vector<int>> members_;
};

// Median of the border: the background as the judge sees it.
std::array<float, 3> border_color(const Image& image) {
  std::array<std::vector<uint8_t>, 3> values;
  const auto take = [&](int x, int y) {
    for (int c = 0; c < 3; ++c) values[c].push_back(image.at(x, y)[c]);
  };
  for (int x = 0; x < image.width; ++x) take(x, 0), take(x, image.height - 1);
  for (int y = 0; y < image.height; ++y) take(0, y), take(image.width - 1, y);
  std::array<float, 3> median{};
  for (int c = 0; c < 3; ++c) {
    std::nth_element(values[c].begin(), values[c].begin() + values[c].size() / 2, values[c].end());
    median[c] = values[c][values[c].size() / 2];
  }
  return median;
}

// How much of each pixel near the component its colour covers, 0..1: the projection of the pixel
// onto the line from the background to the component's own colour.
struct Coverage {
  int x0, y0, w, h;
  std::vector<float> share;
  float at(int x, int y) const { return share[size_t(y) * w + x]; }
};

Coverage coverage_of(const Image& image, const std::vector<int>& members, const Components& all,
                     const std::array<float, 3>& background) {
  int x0 = image.width, y0 = image.height, x1 = 0, y1 = 0, top = 0;
  for (int i : members) {
    const int x = i % image.width, y = i / image.width;
    x0 = std::min(x0, x), x1 = std::max(x1, x), y0 = std::min(y0, y), y1 = std::max(y1, y);
    top = std::max(top, all.pixel(i).chroma);
  }
  // The object's colour: the mean over its purest pixels, which no edge has paled.
  std::array<float, 3> axis{};
  float pure = 0;
  for (int i : members) {
    if (all.pixel(i).chroma < 0.8f * static_cast<float>(top)) continue;
    for (int c = 0; c < 3; ++c) axis[c] += image.rgb[size_t(i) * 3 + c];
    pure += 1;
  }
  float norm = 0;
  for (int c = 0; c < 3; ++c) {
    axis[c] = axis[c] / pure - background[c];
    norm += axis[c] * axis[c];
  }
  Coverage out{x0, y0, x1 - x0 + 1, y1 - y0 + 1, {}};
  out.share.assign(size_t(out.w) * out.h, 0.0f);
  for (int i : members) {
    float dot = 0;
    for (int c = 0; c < 3; ++c) dot += axis[c] * (image.rgb[size_t(i) * 3 + c] - background[c]);
    const int x = i % image.width - x0, y = i / image.width - y0;
    out.share[size_t(y) * out.w + x] =
        std::clamp(0.5f + kSharpen * (dot / std::max(norm, 1.0f) - 0.5f), 0.0f, 1.0f);
  }
  return out;
}

// Sub-pixel box: the outermost rows and columns count by their largest coverage.
Detection box_of(const Coverage& c) {
  float left = 0, right = 0, top = 0, bottom = 0;
  for (int y = 0; y < c.h; ++y) {
    left = std::max(left, c.at(0, y));
    right = std::max(right, c.at(c.w - 1, y));
  }
  for (int x = 0; x < c.w; ++x) {
    top = std::max(top, c.at(x, 0));
    bottom = std::max(bottom, c.at(x, c.h - 1));
  }
  Detection box;
  box.x0 = c.x0 + 1 - left;
  box.y0 = c.y0 + 1 - top;
  box.x1 = c.x0 + c.w - 1 + right;
  box.y1 = c.y0 + c.h - 1 + bottom;
  return box;
}

// Mean coverage of each of the 5x5 zones of the box, bilinear in area: every pixel is shared out to
// the zones it overlaps.
Zones zones_of(const Coverage& c, const Detection& box) {
  Zones sum{}, area{};
  const float zw = (box.x1 - box.x0) / kZones, zh = (box.y1 - box.y0) / kZones;
  for (int y = 0; y < c.h; ++y)
    for (int x = 0; x < c.w; ++x) {
      const float px = c.x0 + x, py = c.y0 + y;
      for (int zy = 0; zy < kZones; ++zy) {
        const float oy = std::min(py + 1, box.y0 + (zy + 1) * zh) - std::max(py, box.y0 + zy * zh);
        if (oy <= 0) continue;
        for (int zx = 0; zx < kZones; ++zx) {
          const float ox =
              std::min(px + 1, box.x0 + (zx + 1) * zw) - std::max(px, box.x0 + zx * zw);
          if (ox <= 0) continue;
          sum[zy * kZones + zx] += ox * oy * c.at(x, y);
          area[zy * kZones + zx] += ox * oy;
        }
      }
    }
  for (size_t i = 0; i < sum.size(); ++i) sum[i] = area[i] > 0 ? sum[i] / area[i] : 0.0f;
  return sum;
}

const std::array<Zones, kShapes.size()>& ideal_zones() {
  static const std::array<Zones, kShapes.size()> ideal = [] {
    std::array<Zones, kShapes.size()> out{};
    constexpr int kSamples = 20;
    for (size_t shape = 0; shape < kShapes.size(); ++shape)
      for (int y = 0; y < kZones * kSamples; ++y)
        for (int x = 0; x < kZones * kSamples; ++x) {
          const float u = (x + 0.5f) / (kZones * kSamples), v = (y + 0.5f) / (kZones * kSamples);
          if (inside_shape(static_cast<int>(shape), u, v))
            out[shape][y / kSamples * kZones + x / kSamples] += 1.0f / (kSamples * kSamples);
        }
    return out;
  }();
  return ideal;
}

std::optional<int> nearest_shape(const Zones& zones) {
  int best = 0;
  float best_distance = 1e9f;
  for (size_t shape = 0; shape < kShapes.size(); ++shape) {
    float sum = 0;
    for (size_t i = 0; i < zones.size(); ++i) {
      const float d = zones[i] - ideal_zones()[shape][i];
      sum += d * d;
    }
    if (sum < best_distance) best_distance = sum, best = static_cast<int>(shape);
  }
  const float rms = std::sqrt(best_distance / static_cast<float>(zones.size()));
  return rms <= kMaxShapeDistance ? std::optional(best) : std::nullopt;
}

int nearest_color(const std::vector<int>& members, const Components& all) {
  double x = 0, y = 0;
  for (int i : members) {  // weighted by chroma: pale edge pixels say little about the hue
    const double angle = all.pixel(i).hue * std::numbers::pi / 180;
    x += all.pixel(i).chroma * std::cos(angle);
    y += all.pixel(i).chroma * std::sin(angle);
  }
  double hue = std::atan2(y, x) * 180 / std::numbers::pi;
  if (hue < 0) hue += 360;
  int best = 0;
  for (size_t i = 1; i < kColors.size(); ++i)
    if (hue_distance(static_cast<float>(hue), kColors[i].degrees) <
        hue_distance(static_cast<float>(hue), kColors[best].degrees))
      best = static_cast<int>(i);
  return best;
}

}  // namespace

std::vector<Detection> detect_shapes(const Image& image) {
  std::vector<Detection> found;
  if (image.width == 0 || image.height == 0) return found;
  const float total = static_cast<float>(image.width) * image.height;
  const Components components(image);
  const std::array<float, 3> background = border_color(image);
  for (const std::vector<int>& members : components.members()) {
    const float share = static_cast<float>(members.size()) / total;
    if (share < kMinShare || share > kMaxShare) continue;
    const Coverage coverage = coverage_of(image, members, components, background);
    Detection box = box_of(coverage);
    const float w = box.x1 - box.x0, h = box.y1 - box.y0;
    if (w <= 0 || h <= 0 || w / h > kMaxAspect || h / w > kMaxAspect) continue;
    const std::optional<int> shape = nearest_shape(zones_of(coverage, box));
    if (!shape) continue;
    box.shape = *shape;
    box.color = nearest_color(members, components);
    box.pixels = static_cast<int>(members.size());
    found.push_back(box);
  }
  return found;
}

}  // namespace parlo
