#include "models/clip_tokenizer.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

#include "models/unicode.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_text.h"

namespace parlo {
using json = nlohmann::json;

namespace {

// Contractions, words, single digits, runs of anything else that is not space. White space is
// spelled out: PCRE2's \s would count U+180E, which Unicode no longer does.
constexpr const char* kPattern =
    "'s|'t|'re|'ve|'m|'ll|'d|\\p{L}+|\\p{N}|"
    "[^\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}\\p{L}\\p{N}]+";

// The published pattern also names the two specials. They are cut out of the raw text before, so
// only one that lowercasing makes ("<|ENDOFTEXT|>") is found, and the next stage splits it again.
// What remains of it: a run of symbols ends where such a word does.
constexpr const char* kSpecialWord = "<\\|(?:start|end)oftext\\|>";

std::vector<std::string_view> split_pieces(std::string_view clean, const Regex& with_specials,
                                           const Regex& plain) {
  std::vector<std::string_view> out;
  for (std::string_view piece : with_specials.find_all(clean)) {
    if (piece != ClipTokenizer::kBos && piece != ClipTokenizer::kEos) {
      out.push_back(piece);
      continue;
    }
    for (std::string_view part : plain.find_all(piece)) out.push_back(part);
  }
  return out;
}

constexpr std::string_view kEndOfWord = "</w>";

std::string utf8(uint32_t c) {  // c < 0x800 is all that byte symbols need
  if (c < 0x80) return {static_cast<char>(c)};
  return {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
}

// The published order: printable bytes stand for themselves, the others are U+0100 onwards.
std::vector<std::pair<int, std::string>> byte_symbols() {
  const auto is_printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255);
  };
  std::vector<std::pair<int, std::string>> out;
  for (int b = 0; b < 256; ++b) {
    if (is_printable(b)) out.emplace_back(b, utf8(uint32_t(b)));
  }
  uint32_t next = 256;
  for (int b = 0; b < 256; ++b) {
    if (!is_printable(b)) out.emplace_back(b, utf8(next++));
  }
  return out;
}

uint64_t pair_key(int32_t a, int32_t b) {
  return uint64_t{static_cast<uint32_t>(a)} << 32 | static_cast<uint32_t>(b);
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> out;
  size_t at = 0;
  while (at < text.size()) {
    size_t end = text.find('\n', at);
    if (end == std::string::npos) end = text.size();
    std::string line = text.substr(at, end - at);
    if (line.ends_with('\r')) line.pop_back();
    out.push_back(std::move(line));
    at = end + 1;
  }
  return out;
}

// Replaces adjacent symbols by their merge, lowest rank first, until no pair has one.
template <class Find>
void merge_symbols(std::vector<int32_t>& symbols, Find&& find) {
  while (symbols.size() > 1) {
    int best_rank = std::numeric_limits<int>::max();
    int32_t left = 0, right = 0, merged = 0;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto* merge = find(symbols[i], symbols[i + 1]);
      if (merge == nullptr || merge->rank >= best_rank) continue;
      best_rank = merge->rank;
      left = symbols[i];
      right = symbols[i + 1];
      merged = merge->token;
    }
    if (best_rank == std::numeric_limits<int>::max()) return;
    size_t out = 0;
    for (size_t i = 0; i < symbols.size(); ++out) {
      const bool hit = i + 1 < symbols.size() && symbols[i] == left && symbols[i + 1] == right;
      symbols[out] = hit ? merged : symbols[i];
      i += hit ? 2 : 1;
    }
    symbols.resize(out);
  }
}

// As the published tokenizers normalise: composed, each run of white space one space, lowercase.
std::string normalise(std::string_view text) {
  const std::string composed = nfc(text);
  std::string out;
  if (strip_left(composed).size() < composed.size()) out += ' ';
  for (std::string_view word : split_white_space(composed)) out.append(word) += ' ';
  const bool trailing = strip_right(composed).size() < composed.size();
  if (!trailing && out.ends_with(' ')) out.pop_back();
  return lowercase(out);
}

}  // namespace

ClipTokenizer::ClipTokenizer(const ClipVocab& files, const std::string& pad_token,
                             int64_t max_length, const std::vector<AddedToken>& added)
    : with_specials_(concat(kSpecialWord, "|", kPattern)),
      pattern_(kPattern),
      max_length_(max_length) {
  CHECK(max_length >= 2, "ClipTokenizer: length ", max_length, " leaves no room for BOS and EOS");
  read_vocab(files.vocab_json);
  read_merges(files.merges_txt);
  add_tokens(pad_token, added);
  const auto id_or_unknown = [&](const std::string& token) {
    const auto found = ids_.find(token);
    return found == ids_.end() ? int32_t(eos_id_) : found->second;  // unk_token is EOS
  };
  for (const auto& [byte, symbol] : byte_symbols()) {
    byte_ids_[size_t(byte)] = id_or_unknown(symbol);
    last_byte_ids_[size_t(byte)] = id_or_unknown(symbol + std::string(kEndOfWord));
  }
}

void ClipTokenizer::add_tokens(const std::string& pad_token, const std::vector<AddedToken>& added) {
  constexpr int64_t kMostIds = 1 << 20;
  for (const AddedToken& token : added) {
    CHECK(token.id >= 0 && token.id < kMostIds, "added token '", printable(token.text), "' has id ",
          token.id, ", expected 0..", kMostIds);
    if (token.id >= size()) tokens_.resize(size_t(token.id) + 1);
    std::string& slot = tokens_[size_t(token.id)];
    CHECK(slot.empty() || slot == token.text, "added token '", printable(token.text),
          "' has the id ", token.id, " of '", printable(slot), "'");
    slot = token.text;
    ids_.emplace(token.text, int32_t(token.id));
  }
  std::vector<AddedToken> all, raw, normalized;
  for (const std::string& text : {std::string(kBos), std::string(kEos), pad_token}) {
    AddedToken token;
    token.text = text;
    token.id = special_id(text);
    merge_added_tokens(all, {token});
  }
  bos_id_ = all[0].id;
  eos_id_ = all[1].id;
  pad_id_ = special_id(pad_token);
  merge_added_tokens(all, added);
  for (AddedToken& token : all) {
    if (token.normalized) token.text = normalise(token.text);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_ = AddedTokens(std::move(raw));
  normalized_ = AddedTokens(std::move(normalized));
}

ClipTokenizer ClipTokenizer::load(const std::filesystem::path& folder) {
  const TokenizerConfig config = read_tokenizer_config(folder);
  const ClipVocab files{read_file(folder / "vocab.json"), read_file(folder / "merges.txt")};
  try {
    return ClipTokenizer(files, config.pad_token.empty() ? kEos : config.pad_token,
                         config.max_length > 0 ? config.max_length : 77, config.added);
  } catch (const Error& error) {
    throw Error(concat(folder.string(), ": ", error.what()));
  }
}

void ClipTokenizer::read_vocab(const std::string& vocab_json) {
  const json vocab = parse_json(vocab_json, "vocab.json");
  CHECK(vocab.is_object() && !vocab.empty(), "vocab.json: expected an object of token: id");
  tokens_.resize(vocab.size());
  for (const auto& [token, id] : vocab.items()) {
    CHECK(id.is_number_unsigned() && id.get<uint64_t>() < vocab.size(), "vocab.json: token '",
          printable(token), "' has id ", shown(id), ", expected one below ", vocab.size());
    std::string& slot = tokens_[id.get<size_t>()];
    CHECK(slot.empty(), "vocab.json: tokens '", printable(slot), "' and '", printable(token),
          "' share the id ", shown(id));
    slot = token;
    ids_.emplace(token, id.get<int32_t>());
  }
}

void ClipTokenizer::read_merges(const std::string& merges_txt) {
  const auto id_of = [&](const std::string& token, size_t line) {
    const auto found = ids_.find(token);
    CHECK(found != ids_.end(), "merges.txt line ", line, ": '", printable(token),
          "' is not in vocab.json");
    return found->second;
  };
  size_t number = 0;
  for (const std::string& line : lines_of(merges_txt)) {
    ++number;
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const size_t space = line.find(' ');
    CHECK(space != std::string::npos && line.find(' ', space + 1) == std::string::npos,
          "merges.txt line ", number, ": expected two symbols and a space, got '", printable(line),
          "'");
    const std::string left = line.substr(0, space), right = line.substr(space + 1);
    merges_[pair_key(id_of(left, number), id_of(right, number))] = {int(number),
                                                                    id_of(left + right, number)};
  }
}

int32_t ClipTokenizer::special_id(const std::string& token) const {
  const auto found = ids_.find(token);
  CHECK(found != ids_.end(), "vocab.json: special token '", printable(token), "' is missing");
  return found->second;
}

void ClipTokenizer::append_piece(std::string_view piece, std::vector<int64_t>& ids) const {
  std::vector<int32_t> symbols;
  for (char c : piece) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
  symbols.back() = last_byte_ids_[static_cast<unsigned char>(piece.back())];
  merge_symbols(symbols, [&](int32_t a, int32_t b) {
    const auto found = merges_.find(pair_key(a, b));
    return found == merges_.end() ? nullptr : &found->second;
  });
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

void ClipTokenizer::append_text(std::string_view text, std::vector<int64_t>& ids) const {
  const std::string clean = normalise(text);
  for (const TextPart& part : normalized_.split(clean)) {
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
      continue;
    }
    for (std::string_view piece : split_pieces(part.text, with_specials_, pattern_)) {
      append_piece(piece, ids);
    }
  }
}

std::vector<int64_t> ClipTokenizer::tokenize(std::string_view text) const {
  std::vector<int64_t> ids;
  for (const TextPart& part : raw_.split(text)) {
    part.token != nullptr ? ids.push_back(part.token->id) : append_text(part.text, ids);
  }
  return ids;
}

const AddedToken* ClipTokenizer::added(int64_t id) const {
  const AddedToken* token = raw_.with_id(id);
  return token != nullptr ? token : normalized_.with_id(id);
}

std::vector<int64_t> ClipTokenizer::encode(std::string_view text, int64_t max_length) const {
  if (max_length == 0) max_length = max_length_;
  CHECK(max_length >= 2, "ClipTokenizer: length ", max_length, " leaves no room for BOS and EOS");
  std::vector<int64_t> ids = tokenize(text);
  ids.insert(ids.begin(), bos_id_);
  if (static_cast<int64_t>(ids.size()) > max_length - 1) ids.resize(size_t(max_length - 1));
  ids.push_back(eos_id_);
  ids.resize(size_t(max_length), pad_id_);
  return ids;
}

Tensor ClipTokenizer::encode_batch(const std::vector<std::string>& texts,
                                   int64_t max_length) const {
  if (max_length == 0) max_length = max_length_;
  std::vector<int64_t> all;
  for (const std::string& text : texts) {
    const std::vector<int64_t> ids = encode(text, max_length);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return Tensor::from(all, {static_cast<int64_t>(texts.size()), max_length});
}

std::string ClipTokenizer::decode(std::span<const int64_t> ids) const {
  std::unordered_map<std::string, char> bytes;
  for (const auto& [byte, symbol] : byte_symbols()) bytes[symbol] = static_cast<char>(byte);
  std::string out;
  for (int64_t id : ids) {
    CHECK(id >= 0 && id < size(), "ClipTokenizer: id ", id, " is outside the vocabulary of ",
          size());
    if (id == bos_id_ || id == eos_id_ || id == pad_id_) continue;
    if (const AddedToken* whole = added(id)) {
      out += whole->text + ' ';
      continue;
    }
    std::string_view token = tokens_[size_t(id)];
    const bool last = token.ends_with(kEndOfWord);
    if (last) token.remove_suffix(kEndOfWord.size());
    for (size_t i = 0; i < token.size();) {
      const size_t n = (static_cast<unsigned char>(token[i]) & 0x80) != 0 ? 2 : 1;
      const auto found = bytes.find(std::string(token.substr(i, n)));
      if (found != bytes.end()) out += found->second;
      i += n;
    }
    if (last) out += ' ';
  }
  if (out.ends_with(' ')) out.pop_back();
  return out;
}

namespace {

// Grows a vocabulary word by word.
class VocabBuilder {
 public:
  VocabBuilder() {
    for (const auto& [byte, symbol] : byte_symbols()) byte_ids_[size_t(byte)] = id_of(symbol);
    for (const auto& [byte, symbol] : byte_symbols()) {
      last_byte_ids_[size_t(byte)] = id_of(symbol + std::string(kEndOfWord));
    }
  }

  // A new merge ranks last, so it cannot change what became of the pieces before: they reach one
  // token by merges that all rank before it.
  void add(std::string_view piece) {
    std::vector<int32_t> symbols;
    for (char c : piece) symbols.push_back(byte_ids_[static_cast<unsigned char>(c)]);
    symbols.back() = last_byte_ids_[static_cast<unsigned char>(piece.back())];
    while (true) {
      merge_symbols(symbols, [&](int32_t a, int32_t b) {
        const auto found = merges_.find(pair_key(a, b));
        return found == merges_.end() ? nullptr : &found->second;
      });
      if (symbols.size() == 1) return;
      const std::string left = tokens_[size_t(symbols[0])], right = tokens_[size_t(symbols[1])];
      lines_ += concat(left, " ", right, "\n");
      const int rank = static_cast<int>(merges_.size());
      merges_[pair_key(symbols[0], symbols[1])] = {rank, id_of(left + right)};
    }
  }

  ClipVocab finish() {
    id_of(ClipTokenizer::kBos);
    id_of(ClipTokenizer::kEos);
    std::string vocab = "{";
    for (size_t i = 0; i < tokens_.size(); ++i) {
      vocab += concat(i == 0 ? "" : ", ", json(tokens_[i]).dump(), ": ", i);
    }
    return {vocab + "}\n", lines_};
  }

 private:
  struct Merge {
    int rank = 0;
    int32_t token = 0;
  };

  int32_t id_of(const std::string& token) {
    const auto [at, added] = ids_.emplace(token, static_cast<int32_t>(tokens_.size()));
    if (added) tokens_.push_back(token);
    return at->second;
  }

  std::vector<std::string> tokens_;
  std::unordered_map<std::string, int32_t> ids_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::array<int32_t, 256> byte_ids_{}, last_byte_ids_{};
  std::string lines_ = "#version: 0.2\n";
};

}  // namespace

ClipVocab build_clip_vocab(const std::vector<std::string>& words) {
  VocabBuilder builder;
  const Regex pattern(kPattern);
  for (const std::string& word : words) {
    const std::string clean = lowercase(nfc(word));
    for (std::string_view piece : pattern.find_all(clean)) builder.add(piece);
  }
  return builder.finish();
}

}  // namespace parlo
