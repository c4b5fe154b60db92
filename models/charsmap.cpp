#include "models/charsmap.h"

#include <cstring>

#include "models/unicode.h"
#include "tensor/error.h"

namespace parlo {
namespace {

// A unit of the trie (darts-clone): the label of the byte that leads to it, the offset to its
// children, and whether a value is among them; or a value.
uint32_t offset_of(uint32_t unit) {
  return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}
uint32_t label_of(uint32_t unit) {
  return unit & ((1u << 31) | 0xffu);
}
bool has_value(uint32_t unit) {
  return (unit >> 8 & 1u) != 0;
}
uint32_t value_of(uint32_t unit) {
  return unit & ((1u << 31) - 1);
}

constexpr size_t kLongestCluster = 6;  // bytes; from there on characters stand alone

}  // namespace

Charsmap::Charsmap(std::string_view bytes) {
  uint32_t size = 0;
  CHECK(bytes.size() >= sizeof size, "precompiled_charsmap: ", bytes.size(), " bytes are too few");
  std::memcpy(&size, bytes.data(), sizeof size);
  bytes.remove_prefix(sizeof size);
  CHECK(size > 0 && size % sizeof(uint32_t) == 0 && size <= bytes.size(),
        "precompiled_charsmap: a trie of ", size, " bytes in ", bytes.size());
  units_.resize(size / sizeof(uint32_t));
  std::memcpy(units_.data(), bytes.data(), size);
  replacements_ = bytes.substr(size);
}

Charsmap::Match Charsmap::match(std::string_view text, bool longest) const {
  Match out;
  uint32_t node = offset_of(units_[0]);
  // A damaged trie may lead anywhere.
  const auto unit_at = [this](uint32_t i) {
    CHECK(i < units_.size(), "precompiled_charsmap: a node leads outside");
    return units_[i];
  };
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    node ^= byte;
    const uint32_t unit = unit_at(node);
    if (byte == 0 || label_of(unit) != byte) break;
    node ^= offset_of(unit);
    if (!has_value(unit)) continue;
    const uint32_t value = value_of(unit_at(node));
    CHECK(value < replacements_.size(), "precompiled_charsmap: a value leads outside");
    out = {i + 1, replacements_.c_str() + value};
    if (!longest) break;
  }
  return out;
}

std::string Charsmap::normalize(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  for (std::string_view cluster : graphemes(text)) {
    if (cluster.size() < kLongestCluster) {
      if (const char* with = shortest(cluster).with) {
        grow(out, with);
        continue;
      }
    }
    while (!cluster.empty()) {
      const std::string_view character = cluster.substr(0, first_character(cluster));
      const char* with = shortest(character).with;
      grow(out, with ? std::string_view(with) : character);
      cluster.remove_prefix(character.size());
    }
  }
  return out;
}

}  // namespace parlo
