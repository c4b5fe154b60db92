#include "models/t5_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "models/unigram.h"
#include "tensor/file.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
using json = nlohmann::json;
using Ids = std::vector<int64_t>;

namespace {

// "_" stands for U+2581.
std::string marked(std::string text) {
  for (size_t at; (at = text.find('_')) != std::string::npos;) text.replace(at, 1, "\u2581");
  return text;
}

json vocabulary() {
  json out = json::array();
  const std::pair<const char*, double> pieces[] = {
      {"<pad>", 0}, {"</s>", 0}, {"<unk>", 0}, {"_", -3},  {"_red", -2},
      {"a", -4},    {"b", -4},   {"ab", -8},   {"_a", -3}, {"ba", -7.5}};
  for (const auto& [text, score] : pieces) out.push_back({marked(text), score});
  return out;
}

// A tokenizer.json whose added tokens have the given flags.
json small_tokenizer() {
  const auto token = [](int id, const char* text) {
    return json{{"id", id}, {"content", text}, {"special", true}, {"normalized", false}};
  };
  json more = token(12, "<more>");
  more["lstrip"] = more["rstrip"] = true;
  json whole = token(11, "ab");
  whole["single_word"] = true;
  const json strip{{"type", "Strip"}, {"strip_left", false}, {"strip_right", true}};
  const json replace{
      {"type", "Replace"}, {"pattern", {{"Regex", " {2,}"}}}, {"content", marked("_")}};
  return {{"added_tokens", {token(0, "<pad>"), token(1, "</s>"), token(2, "<unk>"), more, whole}},
          {"normalizer", {{"type", "Sequence"}, {"normalizers", {strip, replace}}}},
          {"pre_tokenizer",
           {{"type", "Metaspace"}, {"replacement", marked("_")}, {"prepend_scheme", "always"}}},
          {"model", {{"type", "Unigram"}, {"unk_id", 2}, {"vocab", vocabulary()}}}};
}

std::string message_for(const json& tokenizer) {
  const TemporaryFolder folder;
  write_file(folder / "tokenizer.json", tokenizer.dump());
  return message_of([&] { T5Tokenizer::load(folder.path()); });
}

}  // namespace

TEST_CASE("the best cut of a word; of two equal ones the first") {
  const Unigram model({{"<unk>", 0}, {"a", -1}, {"b", -1}, {"ab", -2}, {"ba", -2}, {"aa", -1.5}},
                      0);
  const auto ids = [&](std::string_view word) {
    Ids out;
    model.encode(word, out);
    return out;
  };
  CHECK(ids("").empty());
  CHECK((ids("ab") == Ids{3}));      // a + b has the same sum, but is found later
  CHECK((ids("aba") == Ids{1, 4}));  // so is ab + a
  CHECK((ids("aaa") == Ids{1, 5}));  // and aa + a
  CHECK((ids("xya") == Ids{0, 1}));
  CHECK((ids("x\u00e9") == Ids{0}));
  CHECK(message_of([&] { ids("a\xff"); }).find("UTF-8") != std::string::npos);
}

TEST_CASE("ids equal the references' on every hard string") {
  for (const char* name : {"t5_tokenizer", "t5_tokenizer/small"}) {
    const std::filesystem::path folder = golden(name);
    const T5Tokenizer fast = T5Tokenizer::load(folder);
    const T5Tokenizer slow = T5Tokenizer::load_sentencepiece(folder / "spiece.model");
    CHECK(fast.size() == slow.size());
    const json cases = json::parse(read_file(folder / "cases.json"))["cases"];
    REQUIRE(cases.size() > 500);
    for (const json& c : cases) {
      const std::string text = c["text"];
      INFO("text: ", json(text).dump(-1, ' ', true));
      Ids ids = fast.tokenize(text);
      const bool added = std::any_of(
          ids.begin(), ids.end(), [&](int64_t id) { return id != 2 && fast.added(id) != nullptr; });
      ids.push_back(fast.eos_id());
      CHECK((ids == c["fast"].get<Ids>()));
      if (added || contains(text, "<unk>")) continue;  // SentencePiece alone has no added tokens
      ids = slow.tokenize(text);
      ids.push_back(slow.eos_id());
      CHECK((ids == c.value("slow", c["fast"]).get<Ids>()));
    }
    CHECK((slow.tokenize("<extra_id_0></s>") == Ids{slow.size() - 1, 1}));
  }
}

TEST_CASE("words, spaces and added tokens of a tokenizer.json") {
  const TemporaryFolder folder;
  write_file(folder / "tokenizer.json", small_tokenizer().dump());
  const T5Tokenizer t = T5Tokenizer::load(folder.path());
  CHECK(t.size() == 13);
  CHECK(t.tokenize("").empty());
  CHECK(t.tokenize("   ").empty());
  CHECK((t.tokenize("red") == Ids{4}));
  CHECK((t.tokenize("red  red ") == Ids{4, 4}));
  CHECK((t.tokenize("red</s>red") == Ids{4, 1, 4}));
  CHECK((t.tokenize("red <more> a") == Ids{4, 12, 8}));  // takes the spaces with it
  CHECK((t.tokenize("ab") == Ids{11}));
  CHECK((t.tokenize("red ab!") == Ids{4, 11, 3, 2}));
  CHECK((t.tokenize("xab") == Ids{3, 2, 7}));
  CHECK((t.encode("red a", 5) == Ids{4, 8, 1, 0, 0}));
  CHECK((t.encode("red a b", 3) == Ids{4, 8, 1}));  // </s> stays last
  CHECK(t.encode("red").size() == 512);
  CHECK(t.decode(t.encode("red a", 5)) == "red a");
  CHECK(t.added(12)->text == "<more>");
  CHECK(t.added(4) == nullptr);
  CHECK((t.encode_batch({"red", "a"}, 2).to_vector() == std::vector<double>{4, 1, 8, 1}));

  write_file(folder / "tokenizer_config.json",
             R"({"model_max_length": 4, "added_tokens_decoder": {"20": {"content": "<new>"}}})");
  const T5Tokenizer longer = T5Tokenizer::load(folder.path());
  CHECK(longer.encode("red").size() == 4);
  CHECK((longer.tokenize("red<new>a") == Ids{4, 20, 8}));
  CHECK(longer.size() == 21);
}

TEST_CASE("a folder's damage is named") {
  CHECK(message_for(small_tokenizer()).empty());
  const TemporaryFolder empty;
  CHECK(contains(message_of([&] { T5Tokenizer::load(empty.path()); }), "neither tokenizer.json"));
  const auto with = [](const char* key, json value) {
    json t = small_tokenizer();
    t[key] = std::move(value);
    return message_for(t);
  };
  CHECK(contains(with("model", {{"type", "BPE"}}), "expected Unigram"));
  CHECK(contains(with("normalizer", {{"type", "BertNormalizer"}}), "'BertNormalizer'"));
  CHECK(contains(with("pre_tokenizer", {{"type", "ByteLevel"}}), "'ByteLevel'"));
  CHECK(contains(with("normalizer", {{"type", "Precompiled"}, {"precompiled_charsmap", "AAAA"}}),
                 "too few"));
  CHECK(contains(with("added_tokens", "<pad>"), "neither a list nor an object"));
  json t = small_tokenizer();
  t["model"]["unk_id"] = 99;
  CHECK(contains(message_for(t), "unk_id 99"));
  t = small_tokenizer();
  t["model"]["vocab"][1] = {"x", 0};
  t["added_tokens"] = json::array();
  CHECK(contains(message_for(t), "'</s>'"));
  write_file(empty / "spiece.model", "not a model");
  CHECK(contains(message_of([&] { T5Tokenizer::load(empty.path()); }), "not a model file"));
}
