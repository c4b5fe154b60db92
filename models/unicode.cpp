#include "models/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "tensor/error.h"

namespace parlo {

namespace {

const utf8proc_uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const utf8proc_uint8_t*>(text.data());
}

// Length of the character that ends at the end of a text that is not empty.
size_t last_character(std::string_view text) {
  size_t n = 1;
  while (n < text.size() && (static_cast<unsigned char>(text[text.size() - n]) & 0xc0) == 0x80) ++n;
  return n;
}

utf8proc_int32_t decoded(std::string_view text, size_t* size) {
  utf8proc_int32_t c = 0;
  const utf8proc_ssize_t n =
      utf8proc_iterate(bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &c);
  CHECK(n > 0, "text is not valid UTF-8");
  *size = static_cast<size_t>(n);
  return c;
}

bool is_word(std::string_view character) {
  size_t size = 0;
  const utf8proc_int32_t c = decoded(character, &size);
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200c || c == 0x200d;  // joiners
  }
}

}  // namespace

void check_growth(size_t bytes) {
  constexpr size_t kMostBytes = size_t{1} << 20;
  CHECK(bytes <= kMostBytes, "the tokenizer's rules let a text grow beyond ", kMostBytes, " bytes");
}

void grow(std::string& text, std::string_view more) {
  check_growth(text.size() + more.size());
  text += more;
}

std::string nfc(std::string_view text) {
  if (text.empty()) return {};
  utf8proc_uint8_t* result = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(bytes_of(text), static_cast<utf8proc_ssize_t>(text.size()), &result,
                   static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(result, std::free);
  CHECK(size >= 0, "text is not valid UTF-8: ", utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(result), static_cast<size_t>(size)};
}

std::string lowercase(std::string_view text) {
  constexpr utf8proc_int32_t kCapitalIWithDot = 0x130;
  std::string out;
  out.reserve(text.size());
  const utf8proc_uint8_t* p = bytes_of(text);
  auto left = static_cast<utf8proc_ssize_t>(text.size());
  while (left > 0) {
    utf8proc_int32_t c = 0;
    const utf8proc_ssize_t n = utf8proc_iterate(p, left, &c);
    CHECK(n > 0, "text is not valid UTF-8 at byte ", text.size() - static_cast<size_t>(left));
    p += n;
    left -= n;
    if (c == kCapitalIWithDot) {  // the only character whose lowercase is two characters
      out += "i\xcc\x87";
      continue;
    }
    utf8proc_uint8_t encoded[4];
    const utf8proc_ssize_t size = utf8proc_encode_char(utf8proc_tolower(c), encoded);
    out.append(reinterpret_cast<const char*>(encoded), static_cast<size_t>(size));
  }
  return out;
}

size_t first_character(std::string_view text) {
  size_t size = 0;
  decoded(text, &size);
  return size;
}

std::vector<std::string_view> graphemes(std::string_view text) {
  std::vector<std::string_view> out;
  utf8proc_int32_t state = 0, before = 0;
  size_t begin = 0, at = 0;
  while (at < text.size()) {
    size_t size = 0;
    const utf8proc_int32_t c = decoded(text.substr(at), &size);
    if (at > 0 && utf8proc_grapheme_break_stateful(before, c, &state)) {
      out.push_back(text.substr(begin, at - begin));
      begin = at;
    }
    before = c;
    at += size;
  }
  if (!text.empty()) out.push_back(text.substr(begin));
  return out;
}

bool is_white_space(char32_t c) {
  return (c >= 0x9 && c <= 0xd) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

std::string_view strip_left(std::string_view text) {
  while (!text.empty()) {
    size_t size = 0;
    if (!is_white_space(static_cast<char32_t>(decoded(text, &size)))) break;
    text.remove_prefix(size);
  }
  return text;
}

std::string_view strip_right(std::string_view text) {
  while (!text.empty()) {
    const size_t last = last_character(text);
    size_t size = 0;
    const utf8proc_int32_t c = decoded(text.substr(text.size() - last), &size);
    if (!is_white_space(static_cast<char32_t>(c))) break;
    text.remove_suffix(last);
  }
  return text;
}

std::vector<std::string_view> split_white_space(std::string_view text) {
  std::vector<std::string_view> out;
  text = strip_left(text);
  while (!text.empty()) {
    size_t end = 0;
    while (end < text.size()) {
      size_t size = 0;
      if (is_white_space(static_cast<char32_t>(decoded(text.substr(end), &size)))) break;
      end += size;
    }
    out.push_back(text.substr(0, end));
    text = strip_left(text.substr(end));
  }
  return out;
}

bool starts_with_word(std::string_view text) {
  return !text.empty() && is_word(text);
}

bool ends_with_word(std::string_view text) {
  return !text.empty() && is_word(text.substr(text.size() - last_character(text)));
}

}  // namespace parlo
