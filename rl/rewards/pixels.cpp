#include "rl/rewards/pixels.h"

#include <algorithm>
#include <cmath>

namespace parlo {

std::vector<Image> to_images(const Tensor& pixels) {
  CHECK(pixels.rank() == 4 && pixels.dim(1) == 3, "to_images: expected [B, 3, H, W], got ",
        pixels.shape());
  const Tensor p = pixels.to(DType::f32).to(Device{}).contiguous();
  const int64_t height = p.dim(2), width = p.dim(3), plane = height * width;
  std::vector<Image> out;
  for (int64_t b = 0; b < p.dim(0); ++b) {
    Image image(static_cast<int>(width), static_cast<int>(height));
    const float* from = p.data<float>() + b * 3 * plane;
    for (int64_t i = 0; i < plane; ++i) {
      for (int64_t c = 0; c < 3; ++c) {
        // NaN ends as 0: min and max return their first argument then.
        const float x = std::min(1.0f, std::max(0.0f, from[c * plane + i]));
        image.rgb[static_cast<size_t>(i * 3 + c)] = static_cast<uint8_t>(std::lround(x * 255.0f));
      }
    }
    out.push_back(std::move(image));
  }
  return out;
}

namespace {

Tensor planes(std::span<const Image> images, const float (&mean)[3], const float (&std)[3]) {
  CHECK(!images.empty(), "to_pixels: no images");
  const int64_t width = images[0].width, height = images[0].height, plane = width * height;
  Tensor out = Tensor::empty({static_cast<int64_t>(images.size()), 3, height, width});
  float* to = out.data<float>();
  for (const Image& image : images) {
    CHECK(image.width == width && image.height == height, "to_pixels: images of ", width, "x",
          height, " and ", image.width, "x", image.height, " in one batch");
    for (int64_t c = 0; c < 3; ++c) {
      for (int64_t i = 0; i < plane; ++i) {
        const float x = static_cast<float>(image.rgb[static_cast<size_t>(i * 3 + c)]) / 255.0f;
        *to++ = (x - mean[c]) / std[c];
      }
    }
  }
  return out;
}

}  // namespace

Tensor to_pixels(std::span<const Image> images) {
  return planes(images, {0.0f, 0.0f, 0.0f}, {1.0f, 1.0f, 1.0f});
}

Tensor clip_pixels(std::span<const Image> images) {
  return planes(images, {0.48145466f, 0.4578275f, 0.40821073f},
                {0.26862954f, 0.26130258f, 0.27577711f});
}

}  // namespace parlo
