// t5_json: tokenizer.json, tokenizer_config.json (optional), a text. spiece: a text, and
// spiece.model, which is binary and hence the last part.
#include "models/t5_tokenizer.h"

#include <stdexcept>

#include "tests/fuzz/folder.h"
#include "tests/fuzz/targets.h"

namespace parlo::fuzz {
namespace {

void use(const T5Tokenizer& tokenizer, std::string_view text) {
  for (const std::vector<int64_t>& ids : {tokenizer.encode(text), tokenizer.encode(text, 4)}) {
    for (int64_t id : ids) {
      if (id < 0 || id >= tokenizer.size()) throw std::logic_error("an id outside the vocabulary");
    }
    if (ids.size() != 4 && int64_t(ids.size()) != tokenizer.max_length()) {
      throw std::logic_error("a length nobody asked for");
    }
    tokenizer.decode(ids);
  }
}

}  // namespace

void t5_json(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 3);
  folder.write("tokenizer.json", parts[0]);
  folder.write_or_remove("tokenizer_config.json", parts[1]);
  use(T5Tokenizer::load(folder.path()), parts[2]);
}

void spiece(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 2);
  folder.write("spiece.model", parts[1]);
  use(T5Tokenizer::load(folder.path()), parts[0]);
}

}  // namespace parlo::fuzz
