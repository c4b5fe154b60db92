// The precompiled character map of a SentencePiece model (nmt_nfkc and its like): a double-array
// trie from byte strings to their replacements.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace parlo {

class Charsmap {
 public:
  // The bytes of a model's `precompiled_charsmap`: u32 size of the trie in bytes, the trie,
  // replacements that end with 0. Error when they are cut off.
  explicit Charsmap(std::string_view bytes);

  // As Hugging Face's tokenizers apply it, which is not as SentencePiece does: a grapheme cluster
  // of less than 6 bytes becomes the replacement of the shortest of its prefixes that has one (the
  // rest of the cluster is lost); else each character becomes its own.
  std::string normalize(std::string_view text) const;

  // A prefix of a text and what stands in its place; size 0: none.
  struct Match {
    size_t size = 0;
    const char* with = nullptr;
  };
  Match shortest(std::string_view text) const { return match(text, false); }
  Match longest(std::string_view text) const { return match(text, true); }

 private:
  Match match(std::string_view text, bool longest) const;

  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace parlo
