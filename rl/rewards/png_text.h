// Text that a PNG file carries beside its pixels (PNG specification 1.2, sections 4.2.3 and 3.4).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace parlo {

// Keyword (1 to 79 ASCII characters) and value in UTF-8.
using PngTexts = std::vector<std::pair<std::string, std::string>>;

// The file with a chunk a text behind its header: tEXt, or iTXt where the value is not ASCII.
std::vector<uint8_t> with_texts(std::span<const uint8_t> png, const PngTexts& texts);
// The texts of a file; compressed ones are left out. Error for what is no PNG file or is broken.
PngTexts png_texts(std::span<const uint8_t> png);

}  // namespace parlo
