// By libpng's simplified interface (png_image).
#include "rl/rewards/png.h"

#include <algorithm>
#include <string>

#include <png.h>

#include "tensor/error.h"
#include "tensor/file.h"

namespace parlo {

std::vector<uint8_t> encode_png(const Image& image) {
  CHECK(image.width > 0 && image.height > 0, "encode_png: the image is empty");
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = static_cast<png_uint_32>(image.width);
  header.height = static_cast<png_uint_32>(image.height);
  header.format = PNG_FORMAT_RGB;
  // The bound spares a second encoding just to learn the size.
  png_alloc_size_t bytes = PNG_IMAGE_PNG_SIZE_MAX(header);
  std::vector<uint8_t> out(bytes);
  if (!png_image_write_to_memory(&header, out.data(), &bytes, 0, image.rgb.data(), 0, nullptr))
    throw Error(concat("encode_png: ", header.message));
  out.resize(bytes);
  return out;
}

Image decode_png(std::span<const uint8_t> bytes) {
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  if (!png_image_begin_read_from_memory(&header, bytes.data(), bytes.size()))
    throw Error(concat("not a PNG image: ", header.message));
  constexpr png_uint_32 kMaxSide = 1 << 14;
  if (header.width > kMaxSide || header.height > kMaxSide) {
    png_image_free(&header);
    throw Error(concat("PNG of ", header.width, "x", header.height, " pixels, expected at most ",
                       kMaxSide, " a side"));
  }
  header.format = PNG_FORMAT_RGB;
  Image image(static_cast<int>(header.width), static_cast<int>(header.height));
  const png_color white = {255, 255, 255};
  if (!png_image_finish_read(&header, &white, image.rgb.data(), 0, nullptr))
    throw Error(concat("broken PNG image: ", header.message));
  return image;
}

Image read_png(const std::filesystem::path& path) {
  const std::string file = read_file(path);
  try {
    return decode_png({reinterpret_cast<const uint8_t*>(file.data()), file.size()});
  } catch (const Error& error) {
    throw UsageError(concat(path.string(), ": ", error.what()));
  }
}

void write_png(const std::filesystem::path& path, const Image& image) {
  const std::vector<uint8_t> bytes = encode_png(image);
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

Image make_grid(std::span<const Image> images, int columns, int scale) {
  CHECK(!images.empty() && columns > 0 && scale > 0, "make_grid: needs images, columns and scale");
  const int w = images[0].width, h = images[0].height;
  const int used = std::min<int>(columns, static_cast<int>(images.size()));
  const int rows = (static_cast<int>(images.size()) + used - 1) / used;
  constexpr int kGap = 2;
  Image grid(used * (w * scale + kGap) - kGap, rows * (h * scale + kGap) - kGap);
  std::fill(grid.rgb.begin(), grid.rgb.end(), uint8_t{255});
  for (size_t i = 0; i < images.size(); ++i) {
    const Image& image = images[i];
    CHECK(image.width == w && image.height == h, "make_grid: image ", i, " is ", image.width, "x",
          image.height, ", expected ", w, "x", h, " as the first");
    const int x0 = static_cast<int>(i) % used * (w * scale + kGap);
    const int y0 = static_cast<int>(i) / used * (h * scale + kGap);
    for (int y = 0; y < h * scale; ++y)
      for (int x = 0; x < w * scale; ++x)
        std::copy_n(image.at(x / scale, y / scale), 3, grid.at(x0 + x, y0 + y));
  }
  return grid;
}

}  // namespace parlo
