// Tokens that are cut out of a text before its words are tokenized: special ones and those added to
// a published vocabulary. The rules are those of Hugging Face's tokenizers.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace parlo {

struct AddedToken {
  std::string text;
  int64_t id = 0;
  bool single_word = false;  // not next to a letter or digit
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // and behind it
  bool normalized = false;   // looked for in the normalised text, else in the raw one
  bool special = true;       // decoding leaves it out
};

// A cut of a text: an added token, or what lies between two.
struct TextPart {
  std::string_view text;
  const AddedToken* token = nullptr;
};

// The added tokens of a tokenizer's folder, as stored in a list (tokenizer.json's "added_tokens")
// or an object by id (tokenizer_config.json's "added_tokens_decoder"). Error naming `where`.
std::vector<AddedToken> read_added_tokens(const nlohmann::json& tokens, const std::string& where);

// What a tokenizer's folder says of it beside its vocabulary: tokenizer_config.json and, where that
// names no added tokens, added_tokens.json. A file that is not there says nothing.
struct TokenizerConfig {
  std::vector<AddedToken> added;
  std::string pad_token;   // empty: none named
  int64_t max_length = 0;  // 0: none named, or no limit
};
TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder);

// Adds each of `more`, in the place of one with the same text.
void merge_added_tokens(std::vector<AddedToken>& tokens, const std::vector<AddedToken>& more);

class AddedTokens {
 public:
  AddedTokens() = default;
  explicit AddedTokens(std::vector<AddedToken> tokens);

  // From left to right, at each place the longest; no empty parts.
  std::vector<TextPart> split(std::string_view text) const;
  const std::vector<AddedToken>& tokens() const { return tokens_; }
  const AddedToken* with_id(int64_t id) const;  // or null

 private:
  const AddedToken* find(std::string_view rest) const;

  std::vector<AddedToken> tokens_;  // longest first
  std::array<std::vector<uint32_t>, 256> by_first_byte_;
};

}  // namespace parlo
