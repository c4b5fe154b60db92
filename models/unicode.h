// Unicode text as tokenizers need it. Both throw Error when the text is not valid UTF-8.
#pragma once

#include <string>
#include <string_view>

namespace parlo {

// Canonical composition (NFC).
std::string nfc(std::string_view text);

// Each character on its own, as the published tokenizers do it: a final sigma stays a plain one,
// and U+0130 becomes "i" and a combining dot.
std::string lowercase(std::string_view text);

}  // namespace parlo
