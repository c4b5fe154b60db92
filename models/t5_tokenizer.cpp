#include "models/t5_tokenizer.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>

#include "models/sentencepiece.h"
#include "models/unigram_pipeline.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_text.h"

namespace parlo {
using json = nlohmann::json;

namespace {

constexpr std::string_view kSpace = "\u2581";  // stands for a space in pieces
constexpr int64_t kExtraIds = 100;

// Runs fn, naming the file in its errors.
template <class Fn>
auto in_file(const std::filesystem::path& path, Fn&& fn) {
  try {
    return fn();
  } catch (const Error& error) {
    throw Error(concat(path.string(), ": ", error.what()));
  } catch (const json::exception& error) {  // a field of another type than it should have
    throw Error(concat(path.string(), ": ", printable(error.what())));
  }
}

std::vector<AddedToken> added_tokens_of(const SentencePiece& file) {
  const Unigram& model = file.model();
  std::vector<AddedToken> out;
  for (int64_t id : file.controls()) {
    AddedToken t;
    t.text = model.text(id);
    t.id = id;
    out.push_back(t);
  }
  // They follow the vocabulary, the last number first.
  for (int64_t i = 0; i < kExtraIds; ++i) {
    AddedToken t;
    t.text = concat("<extra_id_", i, ">");
    t.id = model.size() + kExtraIds - 1 - i;
    t.lstrip = t.rstrip = true;
    out.push_back(t);
  }
  return out;
}

}  // namespace

T5Tokenizer T5Tokenizer::load(const std::filesystem::path& folder) {
  const auto fast = folder / "tokenizer.json", slow = folder / "spiece.model";
  CHECK(is_there(fast) || is_there(slow), folder.string(),
        ": has neither tokenizer.json nor spiece.model; expected a T5 tokenizer's folder");
  return is_there(fast) ? load_json(fast) : load_sentencepiece(slow);
}

T5Tokenizer T5Tokenizer::load_json(const std::filesystem::path& path) {
  const json file = parse_json(read_file(path), path.string());
  T5Tokenizer t;
  std::vector<AddedToken> added;
  in_file(path, [&] {
    CHECK(file.is_object() && file.contains("model"), "expected an object with \"model\"");
    const auto model = std::make_shared<Unigram>(read_unigram(file["model"]));
    const WordCutter cut = read_pre_tokenizer(file.value("pre_tokenizer", json()));
    t.normalize_ = read_normalizer(file.value("normalizer", json()));
    t.append_ = [model, cut](std::string_view text, bool first, std::vector<int64_t>& ids) {
      for (const std::string& word : cut(text, first)) model->encode(word, ids);
    };
    for (int64_t id = 0; id < model->size(); ++id) t.pieces_.push_back(model->text(id));
    added = read_added_tokens(file.value("added_tokens", json::array()), "added_tokens");
  });
  t.finish(std::move(added), path.parent_path());
  return t;
}

T5Tokenizer T5Tokenizer::load_sentencepiece(const std::filesystem::path& path) {
  T5Tokenizer t;
  std::vector<AddedToken> added;
  in_file(path, [&] {
    const auto file = std::make_shared<SentencePiece>(read_file(path));
    const Unigram& model = file->model();
    for (int64_t id = 0; id < model.size(); ++id) t.pieces_.push_back(model.text(id));
    added = added_tokens_of(*file);
    t.append_ = [file](std::string_view text, bool, std::vector<int64_t>& ids) {
      file->encode(text, ids);
    };
  });
  t.finish(std::move(added), path.parent_path());
  return t;
}

void T5Tokenizer::finish(std::vector<AddedToken> added, const std::filesystem::path& folder) {
  const TokenizerConfig config = read_tokenizer_config(folder);
  merge_added_tokens(added, config.added);
  if (config.max_length > 0) max_length_ = config.max_length;
  constexpr int64_t kMostIds = 1 << 20;
  std::vector<AddedToken> raw, normalized;
  for (AddedToken& token : added) {
    CHECK(token.id >= 0 && token.id < kMostIds, folder.string(), ": added token '",
          printable(token.text), "' has id ", token.id, ", expected 0..", kMostIds);
    if (token.id >= size()) pieces_.resize(static_cast<size_t>(token.id) + 1);
    pieces_[static_cast<size_t>(token.id)] = token.text;
    const auto normalize = [&](std::string& text) {
      if (normalize_) text = normalize_(text);
    };
    if (token.normalized) normalize(token.text);
    (token.normalized ? normalized : raw).push_back(std::move(token));
  }
  raw_ = AddedTokens(std::move(raw));
  normalized_ = AddedTokens(std::move(normalized));
  const auto id_of = [&](const char* text) {
    const auto found = std::find(pieces_.begin(), pieces_.end(), text);
    CHECK(found != pieces_.end(), folder.string(), ": the tokenizer has no token '", text, "'");
    return found - pieces_.begin();
  };
  eos_id_ = id_of("</s>");
  pad_id_ = id_of("<pad>");
}

std::vector<int64_t> T5Tokenizer::tokenize(std::string_view text) const {
  std::vector<int64_t> ids;
  for (const TextPart& part : raw_.split(text)) {
    if (part.token != nullptr) {
      ids.push_back(part.token->id);
      continue;
    }
    const std::string clean = normalize_ ? normalize_(part.text) : std::string(part.text);
    for (const TextPart& inner : normalized_.split(clean)) {
      if (inner.token != nullptr) {
        ids.push_back(inner.token->id);
      } else {
        const bool first = part.text.data() == text.data() && inner.text.data() == clean.data();
        append_(inner.text, first, ids);
      }
    }
  }
  return ids;
}

std::vector<int64_t> T5Tokenizer::encode(std::string_view text, int64_t max_length) const {
  if (max_length == 0) max_length = max_length_;
  CHECK(max_length >= 1, "T5Tokenizer: length ", max_length, " leaves no room for </s>");
  std::vector<int64_t> ids = tokenize(text);
  if (static_cast<int64_t>(ids.size()) > max_length - 1) ids.resize(size_t(max_length - 1));
  ids.push_back(eos_id_);
  ids.resize(size_t(max_length), pad_id_);
  return ids;
}

Tensor T5Tokenizer::encode_batch(const std::vector<std::string>& texts, int64_t max_length) const {
  if (max_length == 0) max_length = max_length_;
  std::vector<int64_t> all;
  for (const std::string& text : texts) {
    const std::vector<int64_t> ids = encode(text, max_length);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return Tensor::from(all, {static_cast<int64_t>(texts.size()), max_length});
}

const AddedToken* T5Tokenizer::added(int64_t id) const {
  const AddedToken* token = raw_.with_id(id);
  return token != nullptr ? token : normalized_.with_id(id);
}

std::string T5Tokenizer::decode(std::span<const int64_t> ids) const {
  std::string out;
  for (int64_t id : ids) {
    CHECK(id >= 0 && id < size(), "T5Tokenizer: id ", id, " is outside the vocabulary of ", size());
    const AddedToken* token = added(id);
    if (token != nullptr && token->special) continue;
    std::string_view piece = pieces_[static_cast<size_t>(id)];
    for (size_t at; (at = piece.find(kSpace)) != std::string_view::npos;) {
      out += piece.substr(0, at);
      out += ' ';
      piece.remove_prefix(at + kSpace.size());
    }
    out += piece;
  }
  if (out.starts_with(' ')) out.erase(0, 1);
  return out;
}

}  // namespace parlo
