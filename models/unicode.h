// Unicode text as tokenizers need it. All throw Error when the text is not valid UTF-8.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace parlo {

// A text that rules of a tokenizer's file make of another. Error beyond 1 MiB: only hostile rules
// let a prompt grow so.
void check_growth(size_t bytes);
// Appends, within that limit.
void grow(std::string& text, std::string_view more);

// Canonical composition (NFC).
std::string nfc(std::string_view text);

// Each character on its own, as the published tokenizers do it: a final sigma stays a plain one,
// and U+0130 becomes "i" and a combining dot.
std::string lowercase(std::string_view text);

// Length in bytes of the character at the start of a text that is not empty.
size_t first_character(std::string_view text);

// Extended grapheme clusters, from left to right.
std::vector<std::string_view> graphemes(std::string_view text);

// Characters with the property White_Space.
bool is_white_space(char32_t c);
std::string_view strip_left(std::string_view text);
std::string_view strip_right(std::string_view text);
// The parts between white space; none is empty.
std::vector<std::string_view> split_white_space(std::string_view text);

// Is the first (last) character a letter, mark, digit or connector?
bool starts_with_word(std::string_view text);
bool ends_with_word(std::string_view text);

}  // namespace parlo
