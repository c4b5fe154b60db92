// Errors carry one line: what failed, what was expected, what came, what to do.
// Error ends a command with exit code 1 (failed), UsageError with 2 (bad usage or input).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace parlo {

// Without line breaks and other control characters, which names in a hostile file may hold.
inline std::string one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return text;
}

// Text from a hostile file, fit for a part of a message: ASCII alone, and not too long.
inline std::string printable(std::string_view text, size_t most = 120) {
  std::string out;
  for (char c : text.substr(0, most)) out += (c >= 0x20 && c < 0x7f) ? c : '?';
  return text.size() > most ? out + "..." : out;
}

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& message) : std::runtime_error(one_line(message)) {}
};

class UsageError : public Error {
 public:
  using Error::Error;
};

// Joins the printed form of every part.
template <class... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

}  // namespace parlo

// CHECK(condition, parts...) throws Error with the joined parts. For conditions a user can reach;
// internal ones use assert.
#define CHECK(condition, ...)                                             \
  do {                                                                    \
    if (!(condition)) throw ::parlo::Error(::parlo::concat(__VA_ARGS__)); \
  } while (0)
