// Errors carry one line: what failed, what was expected, what came, what to do.
// Error ends a command with exit code 1 (failed), UsageError with 2 (bad usage or input).
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace parlo {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
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
