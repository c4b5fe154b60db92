#include "tests/fuzz/targets.h"

#include <stdexcept>
#include <string>

#include "tensor/error.h"

namespace parlo::fuzz {

bool run(Loader load, std::string_view input) {
  constexpr size_t kLongest = 40'000;  // forty offenders, and a list of some hundred parameters
  try {
    load(input);
    return true;
  } catch (const Error& error) {
    const std::string_view message = error.what();
    if (message.empty() || message.size() > kLongest) {
      throw std::logic_error("an Error of " + std::to_string(message.size()) + " bytes");
    }
    if (message.find('\n') != message.npos) throw std::logic_error("an Error of several lines");
    return false;
  }
}

std::vector<std::string_view> parts_of(std::string_view input, size_t count) {
  constexpr char kSeparator = 0x1e;
  std::vector<std::string_view> out;
  while (out.size() + 1 < count) {
    const size_t end = input.find(kSeparator);
    out.push_back(input.substr(0, end));
    input = end == input.npos ? std::string_view() : input.substr(end + 1);
  }
  out.push_back(input);
  return out;
}

}  // namespace parlo::fuzz
