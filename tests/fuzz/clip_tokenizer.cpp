// Input: vocab.json, merges.txt, tokenizer_config.json, added_tokens.json (both optional), a text.
#include "models/clip_tokenizer.h"

#include "tests/fuzz/folder.h"
#include "tests/fuzz/targets.h"
#include "tests/fuzz/use_tokenizer.h"

namespace parlo::fuzz {

void clip_tokenizer(std::string_view input) {
  static const Folder folder;
  const auto parts = parts_of(input, 5);
  folder.write("vocab.json", parts[0]);
  folder.write("merges.txt", parts[1]);
  folder.write_or_remove("tokenizer_config.json", parts[2]);
  folder.write_or_remove("added_tokens.json", parts[3]);
  const ClipTokenizer tokenizer = ClipTokenizer::load(folder.path());
  // The text gets long enough to be cut; a specials' text is likely to be merged wrongly.
  const std::string text = std::string(parts[4]) + " <|endoftext|>a";
  use_tokenizer(tokenizer, text);
}

}  // namespace parlo::fuzz
