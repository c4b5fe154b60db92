// What a tokenizer that was read must do with any text.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string_view>
#include <vector>

namespace parlo::fuzz {

// std::logic_error for an id outside the vocabulary or a row of another length than asked for.
template <class Tokenizer>
void use_tokenizer(const Tokenizer& tokenizer, std::string_view text) {
  for (const std::vector<int64_t>& ids : {tokenizer.encode(text), tokenizer.encode(text, 4)}) {
    for (int64_t id : ids) {
      if (id < 0 || id >= tokenizer.size()) throw std::logic_error("an id outside the vocabulary");
    }
    if (ids.size() != 4 && static_cast<int64_t>(ids.size()) != tokenizer.max_length()) {
      throw std::logic_error("a length nobody asked for");
    }
    tokenizer.decode(ids);
  }
}

}  // namespace parlo::fuzz
