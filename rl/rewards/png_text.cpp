#include "rl/rewards/png_text.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "tensor/error.h"

namespace parlo {
namespace {

// A chunk is a length, a type of four letters, the data and a checksum of type and data.
constexpr std::array<uint8_t, 8> kSignature{0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
constexpr size_t kHeaderEnd = 8 + 12 + 13;  // behind IHDR, which comes first
constexpr size_t kMaxKeyword = 79;

uint32_t crc32(std::string_view bytes) {
  uint32_t crc = 0xffffffffu;
  for (const char c : bytes) {
    crc ^= static_cast<uint8_t>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0xedb88320u : 0u);
  }
  return ~crc;
}

std::string big_endian(uint32_t x) {
  std::string out;
  for (int shift = 24; shift >= 0; shift -= 8) out += static_cast<char>(x >> shift & 0xff);
  return out;
}

uint32_t number_at(std::string_view bytes, size_t at) {
  uint32_t x = 0;
  for (size_t i = 0; i < 4; ++i) x = x << 8 | static_cast<uint8_t>(bytes[at + i]);
  return x;
}

std::string chunk(const std::string& keyword, std::string value) {
  CHECK(!keyword.empty() && keyword.size() <= kMaxKeyword, "PNG text: the keyword '", keyword,
        "' has ", keyword.size(), " characters, expected 1 to ", kMaxKeyword);
  std::replace(value.begin(), value.end(), '\0', ' ');  // which the format does not allow
  const bool ascii = std::all_of(value.begin(), value.end(),
                                 [](char c) { return static_cast<uint8_t>(c) < 0x80; });
  // iTXt: not compressed, no language, keyword not translated.
  const std::string between(ascii ? 1 : 5, '\0');
  const std::string body = (ascii ? "tEXt" : "iTXt") + keyword + between + value;
  return big_endian(static_cast<uint32_t>(body.size() - 4)) + body + big_endian(crc32(body));
}

// The value behind the keyword's end; false where it is compressed or there is none.
bool read_value(std::string_view type, std::string_view rest, std::string& value) {
  if (type == "iTXt") {
    if (rest.size() < 2 || rest[0] != 0) return false;
    rest.remove_prefix(2);
    for (int skipped = 0; skipped < 2; ++skipped) {  // language, translated keyword
      const size_t end = rest.find('\0');
      if (end == std::string_view::npos) return false;
      rest.remove_prefix(end + 1);
    }
  }
  value = rest;
  return true;
}

}  // namespace

std::vector<uint8_t> with_texts(std::span<const uint8_t> png, const PngTexts& texts) {
  CHECK(png.size() >= kHeaderEnd, "PNG text: a file of ", png.size(), " bytes is no PNG file");
  std::string chunks;
  for (const auto& [keyword, value] : texts) chunks += chunk(keyword, value);
  std::vector<uint8_t> out;
  out.reserve(png.size() + chunks.size());
  out.insert(out.end(), png.begin(), png.begin() + kHeaderEnd);
  out.insert(out.end(), chunks.begin(), chunks.end());
  out.insert(out.end(), png.begin() + kHeaderEnd, png.end());
  return out;
}

PngTexts png_texts(std::span<const uint8_t> png) {
  CHECK(png.size() >= kHeaderEnd && std::equal(kSignature.begin(), kSignature.end(), png.begin()),
        "not a PNG file");
  const std::string_view bytes(reinterpret_cast<const char*>(png.data()), png.size());
  PngTexts out;
  for (size_t at = kSignature.size();;) {
    CHECK(bytes.size() - at >= 12, "broken PNG file: it ends without its last chunk");
    const size_t length = number_at(bytes, at);
    CHECK(length <= bytes.size() - at - 12, "broken PNG file: a chunk of ", length,
          " bytes reaches over its end");
    const std::string_view body = bytes.substr(at + 4, 4 + length), type = body.substr(0, 4);
    if (type == "IEND") return out;
    at += 12 + length;
    if (type != "tEXt" && type != "iTXt") continue;
    CHECK(number_at(bytes, at - 4) == crc32(body),
          "broken PNG file: the checksum of a text is wrong");
    const std::string_view data = body.substr(4);
    const size_t end = data.find('\0');
    std::string value;
    if (end == std::string_view::npos || !read_value(type, data.substr(end + 1), value)) continue;
    out.emplace_back(std::string(data.substr(0, end)), std::move(value));
  }
}

}  // namespace parlo
