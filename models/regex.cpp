#define PCRE2_CODE_UNIT_WIDTH 8
#include "models/regex.h"

#include <pcre2.h>

#include "tensor/error.h"

namespace parlo {

namespace {

std::string message_of(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

// Patterns come from files that anybody may have written: one that backtracks without end is
// refused within a second or so, not after the library's 20 GB.
const pcre2_match_context* limits() {
  static const std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)> context = [] {
    pcre2_match_context* c = pcre2_match_context_create(nullptr);
    CHECK(c != nullptr, "regular expression: out of memory");
    pcre2_set_match_limit(c, 1'000'000);
    pcre2_set_depth_limit(c, 100'000);
    pcre2_set_heap_limit(c, 64 << 10);  // KiB
    return std::unique_ptr<pcre2_match_context, void (*)(pcre2_match_context*)>(
        c, pcre2_match_context_free);
  }();
  return context.get();
}

std::shared_ptr<void> compile(const std::string& pattern, uint32_t options) {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   // \C would cut characters in two.
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C | options,
                                   &error, &at, nullptr);
  CHECK(code != nullptr, "bad regular expression '", printable(pattern), "' at character ", at,
        ": ", message_of(error));
  return {code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); }};
}

// Where a match is put; its memory is used again for the next one.
using MatchData = std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)>;

MatchData match_data(const std::shared_ptr<void>& code) {
  const auto* compiled = static_cast<const pcre2_code*>(code.get());
  MatchData data(pcre2_match_data_create_from_pattern(compiled, nullptr), pcre2_match_data_free);
  CHECK(data != nullptr, "regular expression: out of memory");
  return data;
}

// First match at or after `from`; false when there is none.
bool match(const std::shared_ptr<void>& code, const std::string& pattern, std::string_view text,
           size_t from, const MatchData& data, size_t& begin, size_t& end) {
  const auto* compiled = static_cast<const pcre2_code*>(code.get());
  // UTF-8 is checked on the first call only, not once for every match.
  const uint32_t options = from > 0 ? PCRE2_NO_UTF_CHECK : 0;
  const char* start = text.data() != nullptr ? text.data() : "";
  const int found = pcre2_match(compiled, reinterpret_cast<PCRE2_SPTR>(start), text.size(), from,
                                options, data.get(), const_cast<pcre2_match_context*>(limits()));
  if (found == PCRE2_ERROR_NOMATCH) return false;
  CHECK(found > 0, "regular expression '", printable(pattern), "': ", message_of(found));
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(data.get());
  begin = range[0];
  end = range[1];
  return true;
}

}  // namespace

Regex::Regex(const std::string& pattern)
    : pattern_(pattern),
      search_(compile(pattern, 0)),
      whole_(compile(pattern, PCRE2_ANCHORED | PCRE2_ENDANCHORED)) {}

bool Regex::full_match(std::string_view text) const {
  size_t begin = 0, end = 0;
  return match(whole_, pattern_, text, 0, match_data(whole_), begin, end);
}

std::vector<std::string_view> Regex::find_all(std::string_view text) const {
  std::vector<std::string_view> out;
  const MatchData data = match_data(search_);
  size_t begin = 0, end = 0, at = 0;
  while (at <= text.size() && match(search_, pattern_, text, at, data, begin, end)) {
    if (end > begin) out.push_back(text.substr(begin, end - begin));
    at = end;
    // Past an empty match and to the start of the next character.
    if (end == begin) ++at;
    while (at < text.size() && (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80) ++at;
  }
  return out;
}

}  // namespace parlo
