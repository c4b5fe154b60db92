#include "tools/preset_tokenizers.h"

#include <nlohmann/json.hpp>

#include "models/clip_tokenizer.h"
#include "tools/world/vocabulary.h"

namespace parlo {
namespace {

using json = nlohmann::ordered_json;

constexpr const char* kSpace = "\u2581";  // stands for a space in pieces
// A known word is likelier than its letters, whatever their number.
constexpr double kWordScore = -4.0, kLetterScore = -8.0;

json special_token(int64_t id, const std::string& text) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

json t5_vocabulary() {
  json vocab = json::array();
  const auto add = [&](const std::string& piece, double score) {
    vocab.push_back(json::array({piece, score}));
  };
  for (const char* token : {"<pad>", "</s>", "<unk>"}) add(token, 0.0);
  add(kSpace, kLetterScore);
  for (const std::string& word : world_vocabulary()) add(kSpace + word, kWordScore);
  for (char c = '!'; c <= '~'; ++c) add(std::string(1, c), kLetterScore);
  return vocab;
}

}  // namespace

std::vector<PresetFile> clip_tokenizer_files(const std::string& folder, const std::string& pad,
                                             int64_t max_length) {
  const ClipVocab vocab = build_clip_vocab(world_vocabulary());
  const json config{{"bos_token", ClipTokenizer::kBos}, {"eos_token", ClipTokenizer::kEos},
                    {"unk_token", ClipTokenizer::kEos}, {"pad_token", pad},
                    {"model_max_length", max_length},   {"tokenizer_class", "CLIPTokenizer"}};
  const std::filesystem::path at = folder;
  return {{at / "vocab.json", vocab.vocab_json},
          {at / "merges.txt", vocab.merges_txt},
          {at / "tokenizer_config.json", config.dump(2) + "\n"}};
}

std::vector<PresetFile> t5_tokenizer_files(const std::string& folder, int64_t max_length) {
  const json metaspace{{"type", "Metaspace"},
                       {"replacement", kSpace},
                       {"prepend_scheme", "always"},
                       {"split", true}};
  json file;
  file["version"] = "1.0";
  file["truncation"] = file["padding"] = nullptr;
  file["added_tokens"] = {special_token(0, "<pad>"), special_token(1, "</s>"),
                          special_token(2, "<unk>")};
  file["normalizer"] = nullptr;
  file["pre_tokenizer"] = metaspace;
  file["post_processor"] = nullptr;
  file["decoder"] = metaspace;
  file["model"] = {
      {"type", "Unigram"}, {"unk_id", 2}, {"vocab", t5_vocabulary()}, {"byte_fallback", false}};
  const json config{{"pad_token", "<pad>"},           {"eos_token", "</s>"},
                    {"unk_token", "<unk>"},           {"extra_ids", 0},
                    {"model_max_length", max_length}, {"tokenizer_class", "T5Tokenizer"}};
  const std::filesystem::path at = folder;
  return {{at / "tokenizer.json", file.dump() + "\n"},
          {at / "tokenizer_config.json", config.dump(2) + "\n"}};
}

}  // namespace parlo
