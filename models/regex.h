// Regular expressions over UTF-8 with Unicode classes (PCRE2). Immutable, so threads may share one.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace parlo {

class Regex {
 public:
  // Throws Error with the place of a syntax error.
  explicit Regex(const std::string& pattern);

  // Both throw Error when the text is not valid UTF-8 or the pattern backtracks without end.
  bool full_match(std::string_view text) const;
  // Every match from left to right, as views into `text`; empty matches are left out.
  std::vector<std::string_view> find_all(std::string_view text) const;

 private:
  std::string pattern_;
  std::shared_ptr<void> search_, whole_;
};

}  // namespace parlo
