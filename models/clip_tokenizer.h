// CLIP's byte-level BPE tokenizer, read from the published vocab.json and merges.txt.
// Special and other added tokens are cut out first; the rest is composed (NFC), lowercased, split
// into words, single digits and runs of symbols, spelled in byte symbols and merged by rank, with
// </w> on the last symbol of a piece.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "models/added_tokens.h"
#include "models/regex.h"
#include "tensor/tensor.h"

namespace parlo {

// Contents of the two files of a tokenizer.
struct ClipVocab {
  std::string vocab_json;
  std::string merges_txt;
};

// A small vocabulary in which every word of the list is one token. All 256 bytes are there too, so
// any text can be encoded; digits stay single tokens. A word that the tokenizer splits ("a-b",
// "42") is one token for each of its pieces.
ClipVocab build_clip_vocab(const std::vector<std::string>& words);

// Immutable after construction: threads may share one.
class ClipTokenizer {
 public:
  static constexpr const char* kBos = "<|startoftext|>";
  static constexpr const char* kEos = "<|endoftext|>";

  // A pad token of one's own ("!" for SD3's second tokenizer) becomes a special token. `added` may
  // name ids beyond the vocabulary, and the specials with other flags.
  explicit ClipTokenizer(const ClipVocab& files, const std::string& pad_token = kEos,
                         int64_t max_length = 77, const std::vector<AddedToken>& added = {});
  // vocab.json and merges.txt of a folder; pad token, length and added tokens as
  // read_tokenizer_config() finds them.
  static ClipTokenizer load(const std::filesystem::path& folder);

  // BOS, the text's ids, EOS, padding: exactly max_length ids (0: the tokenizer's own). A longer
  // text is cut so that EOS stays last.
  std::vector<int64_t> encode(std::string_view text, int64_t max_length = 0) const;
  // (texts, max_length), i64.
  Tensor encode_batch(const std::vector<std::string>& texts, int64_t max_length = 0) const;
  // The text's ids alone.
  std::vector<int64_t> tokenize(std::string_view text) const;
  // Text of the ids with words separated by spaces; BOS, EOS and padding are left out.
  std::string decode(std::span<const int64_t> ids) const;
  // The added token of this id, or null.
  const AddedToken* added(int64_t id) const;

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  int64_t max_length() const { return max_length_; }
  int64_t bos_id() const { return bos_id_; }
  int64_t eos_id() const { return eos_id_; }
  int64_t pad_id() const { return pad_id_; }

 private:
  struct Merge {
    int rank = 0;
    int32_t token = 0;
  };
  void read_vocab(const std::string& vocab_json);
  void read_merges(const std::string& merges_txt);
  void add_tokens(const std::string& pad_token, const std::vector<AddedToken>& added);
  int32_t special_id(const std::string& token) const;
  // Of text without raw added tokens.
  void append_text(std::string_view text, std::vector<int64_t>& ids) const;
  void append_piece(std::string_view piece, std::vector<int64_t>& ids) const;

  Regex with_specials_, pattern_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<std::string> tokens_;
  std::unordered_map<uint64_t, Merge> merges_;  // key: the pair's two ids
  std::array<int32_t, 256> byte_ids_{}, last_byte_ids_{};
  AddedTokens raw_, normalized_;
  int64_t max_length_, bos_id_ = 0, eos_id_ = 0, pad_id_ = 0;
};

}  // namespace parlo
