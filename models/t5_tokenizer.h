// T5's tokenizer, from either of the published files. They need not agree:
//   tokenizer.json  what pipelines use; a unigram model with the rules of Hugging Face's tokenizers
//   spiece.model    SentencePiece's own rules
// Added tokens (</s>, <extra_id_0>, ...) are cut out first.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/added_tokens.h"
#include "tensor/tensor.h"

namespace parlo {

// Immutable after construction: threads may share one.
class T5Tokenizer {
 public:
  // tokenizer.json of a folder where it is there, else spiece.model; flags of added tokens and the
  // length from tokenizer_config.json.
  static T5Tokenizer load(const std::filesystem::path& folder);
  // One of the two files, with the tokenizer_config.json beside it.
  static T5Tokenizer load_json(const std::filesystem::path& tokenizer_json);
  static T5Tokenizer load_sentencepiece(const std::filesystem::path& spiece_model);

  // The text's ids, </s>, padding: exactly max_length ids (0: the tokenizer's own). A longer text
  // is cut so that </s> stays last.
  std::vector<int64_t> encode(std::string_view text, int64_t max_length = 0) const;
  // (texts, max_length), i64.
  Tensor encode_batch(const std::vector<std::string>& texts, int64_t max_length = 0) const;
  // The text's ids alone.
  std::vector<int64_t> tokenize(std::string_view text) const;
  // Text of the ids; specials are left out.
  std::string decode(std::span<const int64_t> ids) const;

  // Ids are below this.
  int64_t size() const { return static_cast<int64_t>(pieces_.size()); }
  int64_t max_length() const { return max_length_; }
  int64_t eos_id() const { return eos_id_; }
  int64_t pad_id() const { return pad_id_; }
  // The added token of this id, or null.
  const AddedToken* added(int64_t id) const;

 private:
  T5Tokenizer() = default;
  // Sorts the added tokens by where they are looked for, and finds </s> and <pad>.
  void finish(std::vector<AddedToken> added, const std::filesystem::path& folder);

  AddedTokens raw_, normalized_;
  // What happens to the text between raw tokens; empty: nothing.
  std::function<std::string(std::string_view)> normalize_;
  // Appends the ids of text between added tokens; `first`: nothing came before it.
  std::function<void(std::string_view text, bool first, std::vector<int64_t>& ids)> append_;
  std::vector<std::string> pieces_;
  int64_t max_length_ = 512, eos_id_ = 1, pad_id_ = 0;
};

}  // namespace parlo
