#include "models/unigram.h"

#include <algorithm>
#include <limits>

#include "models/unicode.h"
#include "tensor/error.h"

namespace parlo {
namespace {

constexpr double kUnknownScore = -10.0;  // below the lowest

// The best cut of the word's first bytes: its last piece and the sum of scores.
struct Best {
  double score = 0;
  size_t begin = std::string::npos;
  int64_t id = 0;
};

void offer(Best& best, double score, size_t begin, int64_t id) {
  if (best.begin == std::string::npos || score > best.score) best = {score, begin, id};
}

}  // namespace

Unigram::Unigram(std::vector<Piece> vocabulary, int64_t unknown_id, Sums sums)
    : vocabulary_(std::move(vocabulary)), unknown_id_(unknown_id), sums_(sums) {
  CHECK(unknown_id >= 0 && unknown_id < size(), "Unigram: unk_id ", unknown_id,
        " is not in the vocabulary of ", size());
  double lowest = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < vocabulary_.size(); ++i) {
    const Piece& piece = vocabulary_[i];
    if (!piece.in_text) continue;
    ids_[piece.text] = static_cast<int64_t>(i);
    lowest = std::min(lowest, piece.score);
    longest_ = std::max(longest_, piece.text.size());
  }
  unknown_score_ = sum(lowest, kUnknownScore);
}

double Unigram::sum(double a, double b) const {
  if (sums_ == Sums::f64) return a + b;
  return static_cast<double>(static_cast<float>(a) + static_cast<float>(b));
}

void Unigram::encode(std::string_view word, std::vector<int64_t>& ids) const {
  std::vector<Best> best(word.size() + 1);
  for (size_t begin = 0; begin < word.size();) {
    const double so_far = best[begin].score;
    const size_t single = first_character(word.substr(begin));
    bool known = false;
    for (size_t end = begin + single; end - begin <= longest_;) {
      const auto found = ids_.find(word.substr(begin, end - begin));
      if (found != ids_.end()) {
        const double score = vocabulary_[static_cast<size_t>(found->second)].score;
        offer(best[end], sum(score, so_far), begin, found->second);
        known |= end == begin + single;
      }
      if (end == word.size()) break;
      end += first_character(word.substr(end));
    }
    if (!known) offer(best[begin + single], sum(unknown_score_, so_far), begin, unknown_id_);
    begin += single;
  }
  const size_t first = ids.size();
  for (size_t end = word.size(); end > 0; end = best[end].begin) {
    const int64_t id = best[end].id;
    if (id == unknown_id_ && ids.size() > first && ids.back() == unknown_id_) continue;
    ids.push_back(id);
  }
  std::reverse(ids.begin() + static_cast<std::ptrdiff_t>(first), ids.end());
}

}  // namespace parlo
