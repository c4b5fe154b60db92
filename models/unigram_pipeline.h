// What a tokenizer.json with a unigram model does to the text between added tokens: its normaliser,
// its cuts into words, its vocabulary. Known parts are those of published T5 tokenizers; any other
// is refused by name.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "models/unigram.h"

namespace parlo {

using TextMap = std::function<std::string(std::string_view)>;

// "normalizer": Precompiled, Strip, Replace, Sequence; null is the identity.
TextMap read_normalizer(const nlohmann::json& spec);

// A text between added tokens; `first`: nothing came before it.
using WordCutter = std::function<std::vector<std::string>(std::string_view text, bool first)>;

// "pre_tokenizer": Metaspace, WhitespaceSplit, Sequence; null is one word.
WordCutter read_pre_tokenizer(const nlohmann::json& spec);

// "model": Unigram without byte fallback.
Unigram read_unigram(const nlohmann::json& spec);

}  // namespace parlo
