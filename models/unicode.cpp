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

}  // namespace

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

}  // namespace parlo
