// t5_json: tokenizer.json, tokenizer_config.json (optional), a text. spiece: a text, and
// spiece.model, which is binary and hence the last part.
#include "models/t5_tokenizer.h"

#include "tests/fuzz/folder.h"
#include "tests/fuzz/targets.h"
#include "tests/fuzz/use_tokenizer.h"

namespace parlo::fuzz {
void t5_json(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 3);
  folder.write("tokenizer.json", parts[0]);
  folder.write_or_remove("tokenizer_config.json", parts[1]);
  use_tokenizer(T5Tokenizer::load(folder.path()), parts[2]);
}

void spiece(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 2);
  folder.write("spiece.model", parts[1]);
  use_tokenizer(T5Tokenizer::load(folder.path()), parts[0]);
}

}  // namespace parlo::fuzz
