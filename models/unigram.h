// The unigram model of a tokenizer: of all ways to cut a word into pieces of the vocabulary the one
// with the largest sum of scores (Viterbi). What no piece covers is "unknown": each such character
// costs the lowest score less 10, and neighbours become one token.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace parlo {

class Unigram {
 public:
  struct Piece {
    std::string text;
    double score = 0;
    bool in_text = true;  // found in words; control symbols may not be
  };
  // What sums of scores are rounded to: it decides among cuts that are equal but for rounding.
  enum class Sums { f32, f64 };
  Unigram(std::vector<Piece> vocabulary, int64_t unknown_id, Sums sums = Sums::f64);

  // Appends the ids of a word. Among equal sums the cut found first stays, which is the one whose
  // last piece starts furthest left, as in Hugging Face's tokenizers and in SentencePiece.
  void encode(std::string_view word, std::vector<int64_t>& ids) const;

  int64_t size() const { return static_cast<int64_t>(vocabulary_.size()); }
  const std::string& text(int64_t id) const { return vocabulary_[static_cast<size_t>(id)].text; }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  double sum(double a, double b) const;

  std::vector<Piece> vocabulary_;
  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> ids_;
  int64_t unknown_id_;
  Sums sums_;
  double unknown_score_;
  size_t longest_ = 0;  // bytes
};

}  // namespace parlo
