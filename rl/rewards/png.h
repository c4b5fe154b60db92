// PNG files and contact sheets.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "rl/rewards/image.h"

namespace parlo {

std::vector<uint8_t> encode_png(const Image& image);
Image decode_png(std::span<const uint8_t> bytes);

// Alpha is dropped over white, grey becomes RGB. Errors name the file.
Image read_png(const std::filesystem::path& path);
// Complete or not there at all (tensor/file.h).
void write_png(const std::filesystem::path& path, const Image& image);

// Images of one size in rows of `columns`, each pixel drawn scale x scale, 2 white pixels between.
Image make_grid(std::span<const Image> images, int columns, int scale = 1);

}  // namespace parlo
