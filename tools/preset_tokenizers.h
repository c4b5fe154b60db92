// Tokenizers for folders that have no published vocabulary.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/model_preset.h"

namespace parlo {

// FOLDER/vocab.json, merges.txt and tokenizer_config.json of the built-in world's CLIP tokenizer,
// which spells all it does not know. `pad` is what prompts are filled up with.
std::vector<PresetFile> clip_tokenizer_files(const std::string& folder, const std::string& pad,
                                             int64_t max_length);
// FOLDER/tokenizer.json and tokenizer_config.json of a unigram model: the world's words and the
// printable characters of ASCII, as T5's with <pad>, </s> and <unk> in front.
std::vector<PresetFile> t5_tokenizer_files(const std::string& folder, int64_t max_length);

}  // namespace parlo
