// A unigram model in SentencePiece's own file (spiece.model, a protocol buffer) with
// SentencePiece's own rules. They are not those of a tokenizer.json made from it: the character map
// takes the longest match wherever a character starts, runs of spaces shrink to one, and sums are
// f32, which decides among cuts of equal score.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "models/charsmap.h"
#include "models/unigram.h"

namespace parlo {

class SentencePiece {
 public:
  // The bytes of the file. Error for a damaged one, other kinds of model, user-defined pieces and
  // byte fallback, none of which T5 has.
  explicit SentencePiece(std::string_view file);

  // Appends the ids of a text.
  void encode(std::string_view text, std::vector<int64_t>& ids) const;

  const Unigram& model() const { return *model_; }
  // Ids of <unk> and of pieces that stand for no text (</s>, <pad>).
  const std::vector<int64_t>& controls() const { return controls_; }

 private:
  void read_pieces(std::string_view file);
  void read_normalizer(std::string_view message);
  std::string normalize(std::string_view text) const;

  std::optional<Unigram> model_;
  std::optional<Charsmap> map_;
  std::vector<int64_t> controls_;
  bool add_prefix_ = true, shrink_spaces_ = true;
};

}  // namespace parlo
