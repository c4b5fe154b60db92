#include "models/sentencepiece.h"

#include <cstring>

#include "models/unicode.h"
#include "tensor/error.h"

namespace parlo {
namespace {

constexpr std::string_view kSpace = "\u2581";  // stands for a space in pieces

// A message of a protocol buffer, field by field.
class Fields {
 public:
  explicit Fields(std::string_view message) : rest_(message) {}

  // False at the end; then number, and integer or bytes, are those of the next field.
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    number = key >> 3;
    integer = 0;
    bytes = {};
    switch (key & 7) {
      case 0:
        integer = varint();
        break;
      case 1:
        bytes = take(8);
        break;
      case 2:
        bytes = take(varint());
        break;
      case 5:
        bytes = take(4);
        break;
      default:
        throw Error("SentencePiece: not a model file, or a damaged one");
    }
    return true;
  }

  uint64_t number = 0, integer = 0;
  std::string_view bytes;

 private:
  std::string_view take(uint64_t size) {
    CHECK(size <= rest_.size(), "SentencePiece: the file is cut off, or not a model file");
    const std::string_view out = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return out;
  }
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    throw Error("SentencePiece: a number has no end");
  }

  std::string_view rest_;
};

enum PieceType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUnused = 5 };

struct StoredPiece {
  Unigram::Piece piece;
  uint64_t type = kNormal;
};

StoredPiece read_piece(std::string_view message) {
  StoredPiece out;
  for (Fields f(message); f.next();) {
    if (f.number == 1) out.piece.text = f.bytes;
    if (f.number == 3) out.type = f.integer;
    if (f.number != 2) continue;
    float score = 0;
    CHECK(f.bytes.size() == sizeof score, "SentencePiece: a score is not a float");
    std::memcpy(&score, f.bytes.data(), sizeof score);
    out.piece.score = static_cast<double>(score);
  }
  out.piece.in_text = out.type == kNormal;
  return out;
}

void check_trainer(std::string_view message) {
  for (Fields f(message); f.next();) {
    constexpr uint64_t kModelType = 3, kSuffix = 24, kByteFallback = 35, kUnigram = 1;
    CHECK(f.number != kModelType || f.integer == kUnigram, "SentencePiece: model type ", f.integer,
          ", expected 1, a unigram model");
    CHECK((f.number != kSuffix && f.number != kByteFallback) || f.integer == 0,
          "SentencePiece: byte fallback and white space as suffix are not supported");
  }
}

}  // namespace

SentencePiece::SentencePiece(std::string_view file) {
  for (Fields f(file); f.next();) {
    if (f.number == 2) check_trainer(f.bytes);
    if (f.number == 3) read_normalizer(f.bytes);
  }
  read_pieces(file);
}

void SentencePiece::read_pieces(std::string_view file) {
  std::vector<Unigram::Piece> pieces;
  int64_t unknown = -1;
  for (Fields f(file); f.next();) {
    if (f.number != 1) continue;
    const auto id = static_cast<int64_t>(pieces.size());
    const StoredPiece stored = read_piece(f.bytes);
    CHECK(stored.type <= kControl || stored.type == kUnused, "SentencePiece: piece '",
          printable(stored.piece.text), "' has type ", stored.type, ", which is not supported");
    if (stored.type == kUnknown) unknown = id;
    if (stored.type == kUnknown || stored.type == kControl) controls_.push_back(id);
    pieces.push_back(stored.piece);
  }
  CHECK(unknown >= 0, "SentencePiece: no piece for unknown characters, or not a model file");
  model_.emplace(std::move(pieces), unknown, Unigram::Sums::f32);
}

void SentencePiece::read_normalizer(std::string_view message) {
  for (Fields f(message); f.next();) {
    if (f.number == 2 && !f.bytes.empty()) map_.emplace(f.bytes);
    if (f.number == 3) add_prefix_ = f.integer != 0;
    if (f.number == 4) shrink_spaces_ = f.integer != 0;
    CHECK(f.number != 5 || f.integer != 0,
          "SentencePiece: spaces that stay spaces are not "
          "supported");
  }
}

std::string SentencePiece::normalize(std::string_view text) const {
  std::string mapped;
  while (!text.empty()) {
    const Charsmap::Match match = map_ ? map_->longest(text) : Charsmap::Match{};
    const size_t size = match.size > 0 ? match.size : first_character(text);
    grow(mapped, match.size > 0 ? std::string_view(match.with) : text.substr(0, size));
    text.remove_prefix(size);
  }
  std::string out;
  bool after_space = shrink_spaces_;  // at the start as well
  for (char c : mapped) {
    const bool space = c == ' ';
    if (space && after_space) continue;
    if (out.empty() && add_prefix_) out += kSpace;
    space ? out += kSpace : out += c;
    after_space = space && shrink_spaces_;
  }
  while (shrink_spaces_ && out.ends_with(kSpace)) out.resize(out.size() - kSpace.size());
  return out;
}

void SentencePiece::encode(std::string_view text, std::vector<int64_t>& ids) const {
  model_->encode(normalize(text), ids);
}

}  // namespace parlo
