#include "models/unigram_pipeline.h"

#include <memory>
#include <nlohmann/json.hpp>

#include "models/charsmap.h"
#include "models/regex.h"
#include "models/unicode.h"
#include "tensor/error.h"
#include "tensor/json_text.h"

namespace parlo {
using json = nlohmann::json;

namespace {

std::string type_of(const json& spec) {
  return spec.is_object() ? spec.value("type", "") : "";
}

std::string text_field(const json& spec, const char* name) {
  const auto found = spec.find(name);
  CHECK(found != spec.end() && found->is_string(), type_of(spec), ": ", name,
        " is missing or not a string");
  return found->get<std::string>();
}

std::string decode_base64(std::string_view text) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  uint32_t bits = 0;
  int count = 0;
  for (char c : text) {
    if (c == '=') break;
    const size_t digit = kDigits.find(c);
    CHECK(digit != std::string_view::npos, "precompiled_charsmap: not base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    out += static_cast<char>(bits >> count & 0xff);
  }
  return out;
}

TextMap read_replace(const json& spec) {
  const json pattern = spec.value("pattern", json());
  const bool regex = pattern.is_object() && pattern.contains("Regex");
  CHECK(regex || (pattern.is_object() && pattern.contains("String")),
        "Replace: expected a pattern \"Regex\" or \"String\", got ", shown(pattern));
  const std::string source = text_field(pattern, regex ? "Regex" : "String");
  const std::string with = text_field(spec, "content");
  // \Q...\E takes the text as it stands.
  const auto compiled = std::make_shared<Regex>(regex ? source : concat("\\Q", source, "\\E"));
  return [compiled, with](std::string_view text) {
    std::string out;
    size_t at = 0;
    for (std::string_view match : compiled->find_all(text)) {
      const auto begin = static_cast<size_t>(match.data() - text.data());
      grow(out, text.substr(at, begin - at));
      grow(out, with);
      at = begin + match.size();
    }
    grow(out, text.substr(at));
    return out;
  };
}

TextMap read_strip(const json& spec) {
  const bool left = spec.value("strip_left", false), right = spec.value("strip_right", false);
  return [left, right](std::string_view text) {
    if (left) text = strip_left(text);
    if (right) text = strip_right(text);
    return std::string(text);
  };
}

std::vector<std::string> strings(const std::vector<std::string_view>& views) {
  return {views.begin(), views.end()};
}

// Spaces become `mark`, which is also put before the text, and every mark starts a word.
WordCutter read_metaspace(const json& spec) {
  const std::string mark = text_field(spec, "replacement");
  CHECK(!mark.empty(), "Metaspace: replacement is empty");
  // Older files have add_prefix_space instead.
  const std::string scheme = spec.contains("prepend_scheme")
                                 ? text_field(spec, "prepend_scheme")
                                 : (spec.value("add_prefix_space", true) ? "always" : "never");
  CHECK(scheme == "always" || scheme == "first" || scheme == "never",
        "Metaspace: prepend_scheme is ", printable(scheme), ", expected always, first or never");
  const bool cut = spec.value("split", true);
  return [mark, scheme, cut](std::string_view text, bool first) {
    std::string marked;
    for (const char& c : text)
      grow(marked, c == ' ' ? std::string_view(mark) : std::string_view(&c, 1));
    const bool prepend = scheme == "always" || (scheme == "first" && first);
    if (prepend && !marked.empty() && !marked.starts_with(mark)) marked.insert(0, mark);
    std::vector<std::string> out;
    for (size_t at = 0; at < marked.size();) {
      const size_t next = cut ? marked.find(mark, at + 1) : std::string::npos;
      out.push_back(marked.substr(at, next - at));
      at = next == std::string::npos ? marked.size() : next;
    }
    return out;
  };
}

}  // namespace

TextMap read_normalizer(const json& spec) {
  const std::string type = type_of(spec);
  if (spec.is_null()) return [](std::string_view text) { return std::string(text); };
  if (type == "Precompiled") {
    const auto map =
        std::make_shared<Charsmap>(decode_base64(text_field(spec, "precompiled_charsmap")));
    return [map](std::string_view text) { return map->normalize(text); };
  }
  if (type == "Strip") return read_strip(spec);
  if (type == "Replace") return read_replace(spec);
  CHECK(type == "Sequence" && spec.contains("normalizers"), "normalizer: unknown type '",
        printable(type), "', expected Precompiled, Strip, Replace or Sequence");
  std::vector<TextMap> steps;
  for (const json& step : spec["normalizers"]) steps.push_back(read_normalizer(step));
  return [steps](std::string_view text) {
    std::string out(text);
    for (const TextMap& step : steps) out = step(out);
    return out;
  };
}

WordCutter read_pre_tokenizer(const json& spec) {
  const std::string type = type_of(spec);
  if (spec.is_null()) {
    return [](std::string_view text, bool) { return std::vector{std::string(text)}; };
  }
  if (type == "Metaspace") return read_metaspace(spec);
  if (type == "WhitespaceSplit") {
    return [](std::string_view text, bool) { return strings(split_white_space(text)); };
  }
  CHECK(type == "Sequence" && spec.contains("pretokenizers"), "pre_tokenizer: unknown type '",
        printable(type), "', expected Metaspace, WhitespaceSplit or Sequence");
  std::vector<WordCutter> steps;
  for (const json& step : spec["pretokenizers"]) steps.push_back(read_pre_tokenizer(step));
  return [steps](std::string_view text, bool first) {
    std::vector<std::string> words{std::string(text)};
    for (const WordCutter& step : steps) {
      std::vector<std::string> next;
      bool leads = first;
      size_t bytes = 0;
      for (const std::string& word : words) {
        for (std::string& part : step(word, leads)) {
          check_growth(bytes += part.size());
          next.push_back(std::move(part));
        }
        leads = false;
      }
      words = std::move(next);
    }
    return words;
  };
}

Unigram read_unigram(const json& spec) {
  CHECK(type_of(spec) == "Unigram" || (spec.is_object() && spec.contains("unk_id")),
        "model: type is '", printable(type_of(spec)), "', expected Unigram");
  CHECK(!spec.value("byte_fallback", false), "model: byte_fallback is not supported");
  const json vocab = spec.value("vocab", json()), unknown = spec.value("unk_id", json());
  CHECK(vocab.is_array() && unknown.is_number_unsigned(),
        "model: expected \"vocab\", a list, and \"unk_id\", a number");
  std::vector<Unigram::Piece> pieces;
  pieces.reserve(vocab.size());
  for (const json& entry : vocab) {
    CHECK(entry.is_array() && entry.size() == 2 && entry[0].is_string() && entry[1].is_number(),
          "model: vocabulary entry ", pieces.size(), " is ", shown(entry),
          ", expected [piece, score]");
    pieces.push_back({entry[0].get<std::string>(), entry[1].get<double>()});
  }
  return Unigram(std::move(pieces), unknown.get<int64_t>());
}

}  // namespace parlo
