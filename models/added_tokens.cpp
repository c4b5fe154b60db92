#include "models/added_tokens.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "models/unicode.h"
#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_text.h"

namespace parlo {
using json = nlohmann::json;

namespace {

AddedToken read_token(const json& t, int64_t id, const std::string& where) {
  CHECK(t.is_object() && t.contains("content") && t["content"].is_string(), where,
        ": an added token is ", shown(t), ", expected an object with \"content\"");
  AddedToken out;
  out.text = t["content"].get<std::string>();
  out.id = id;
  const auto flag = [&](const char* name, bool fallback) {
    const auto found = t.find(name);
    return found == t.end() || !found->is_boolean() ? fallback : found->get<bool>();
  };
  out.single_word = flag("single_word", false);
  out.lstrip = flag("lstrip", false);
  out.rstrip = flag("rstrip", false);
  out.special = flag("special", false);
  out.normalized = flag("normalized", !out.special);
  return out;
}

int64_t number_of(const json& value, const std::string& where) {
  CHECK(value.is_number_unsigned() && value < uint64_t{1} << 31, where, ": an added token has id ",
        shown(value), ", expected 0..2^31");
  return value.get<int64_t>();
}

}  // namespace

std::vector<AddedToken> read_added_tokens(const json& tokens, const std::string& where) {
  std::vector<AddedToken> out;
  if (tokens.is_array()) {
    for (const json& t : tokens) {
      const json id = t.is_object() ? t.value("id", json()) : json();
      out.push_back(read_token(t, number_of(id, where), where));
    }
  } else if (tokens.is_object()) {
    for (const auto& [key, t] : tokens.items()) {
      const bool digits = !key.empty() && key.size() < 10 &&
                          key.find_first_not_of("0123456789") == std::string::npos;
      CHECK(digits, where, ": an added token has id '", printable(key), "'");
      out.push_back(read_token(t, std::stoll(key), where));
    }
  } else {
    throw Error(concat(where, ": the added tokens are neither a list nor an object"));
  }
  return out;
}

void merge_added_tokens(std::vector<AddedToken>& tokens, const std::vector<AddedToken>& more) {
  std::unordered_map<std::string, size_t> places;
  for (size_t i = 0; i < tokens.size(); ++i) places.emplace(tokens[i].text, i);
  for (const AddedToken& t : more) {
    const auto [at, is_new] = places.emplace(t.text, tokens.size());
    if (is_new) {
      tokens.push_back(t);
    } else {
      tokens[at->second] = t;
    }
  }
}

namespace {

// Null when there is no such file.
json parse_optional(const std::filesystem::path& path) {
  if (!is_there(path)) return {};
  json out = parse_json(read_file(path), path.string());
  CHECK(out.is_object(), path.string(), ": not a JSON object");
  return out;
}

// A token is stored as a string, or as an object with the string as "content".
std::string token_text(const json& value) {
  if (value.is_string()) return value.get<std::string>();
  const bool whole = value.is_object() && value.contains("content") && value["content"].is_string();
  return whole ? value["content"].get<std::string>() : "";
}

}  // namespace

TokenizerConfig read_tokenizer_config(const std::filesystem::path& folder) {
  TokenizerConfig out;
  const auto path = folder / "tokenizer_config.json", plain = folder / "added_tokens.json";
  const json config = parse_optional(path);
  if (config.is_object()) {
    out.pad_token = token_text(config.value("pad_token", json()));
    const json length = config.value("model_max_length", json());
    // Some files hold 1e30 for "no limit".
    if (length.is_number_unsigned() && length < 100000) out.max_length = length.get<int64_t>();
  }
  if (config.is_object() && config.contains("added_tokens_decoder")) {
    out.added = read_added_tokens(config["added_tokens_decoder"], path.string());
    return out;
  }
  const json ids = parse_optional(plain);
  for (const auto& [text, id] : ids.items()) {
    AddedToken token;
    token.text = text;
    token.id = number_of(id, plain.string());
    token.special = false;
    token.normalized = true;
    out.added.push_back(token);
  }
  return out;
}

AddedTokens::AddedTokens(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  std::erase_if(tokens_, [](const AddedToken& t) { return t.text.empty(); });
  std::stable_sort(tokens_.begin(), tokens_.end(), [](const AddedToken& a, const AddedToken& b) {
    return a.text.size() > b.text.size();
  });
  for (size_t i = 0; i < tokens_.size(); ++i) {
    const auto first = static_cast<unsigned char>(tokens_[i].text[0]);
    by_first_byte_[first].push_back(static_cast<uint32_t>(i));
  }
}

const AddedToken* AddedTokens::with_id(int64_t id) const {
  const auto found =
      std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& t) { return t.id == id; });
  return found == tokens_.end() ? nullptr : &*found;
}

const AddedToken* AddedTokens::find(std::string_view rest) const {
  for (uint32_t i : by_first_byte_[static_cast<unsigned char>(rest[0])]) {
    if (rest.starts_with(tokens_[i].text)) return &tokens_[i];
  }
  return nullptr;
}

std::vector<TextPart> AddedTokens::split(std::string_view text) const {
  std::vector<TextPart> out;
  size_t done = 0, at = 0;
  while (at < text.size()) {
    const AddedToken* token = find(text.substr(at));
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at, end = at + token->text.size();
    at = end;
    if (token->single_word &&
        (ends_with_word(text.substr(0, begin)) || starts_with_word(text.substr(end)))) {
      continue;
    }
    if (token->lstrip) begin = std::max(strip_right(text.substr(0, begin)).size(), done);
    if (token->rstrip) end = text.size() - strip_left(text.substr(end)).size();
    if (begin > done) out.push_back({text.substr(done, begin - done)});
    out.push_back({text.substr(begin, end - begin), token});
    done = end;
  }
  if (done < text.size()) out.push_back({text.substr(done)});
  return out;
}

}  // namespace parlo
