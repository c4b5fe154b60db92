#include "models/clip_tokenizer.h"

#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "tensor/file.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;
using json = nlohmann::json;

namespace {

ClipTokenizer golden_tokenizer(const std::string& pad) {
  return ClipTokenizer(
      {read_file(golden("tokenizer/vocab.json")), read_file(golden("tokenizer/merges.txt"))}, pad);
}

std::vector<std::string> word_list() {
  return {"a",      "the",     "then",   "hen",  "heat",        "he",    "red",  "reddish",
          "circle", "circles", "to",     "of",   "left",        "above", "stop", "\"",
          ",",      "sign",    "that",   "says", "caf\xc3\xa9", "two",   "tow",  "otter",
          "letter", "letters", "better", "et",   "tt",          "'s"};
}

}  // namespace

TEST_CASE("ids equal the reference's on every golden string") {
  const std::pair<const char*, const char*> files[] = {{"tokenizer/cases.json", "<|endoftext|>"},
                                                       {"tokenizer/cases_pad_bang.json", "!"}};
  for (const auto& [file, pad] : files) {
    const json golden_cases = json::parse(read_file(golden(file)));
    const ClipTokenizer tokenizer = golden_tokenizer(pad);
    CHECK(tokenizer.pad_id() == golden_cases["pad_id"].get<int64_t>());
    CHECK(tokenizer.bos_id() == golden_cases["bos_id"].get<int64_t>());
    CHECK(tokenizer.eos_id() == golden_cases["eos_id"].get<int64_t>());
    REQUIRE(golden_cases["cases"].size() > 100);
    for (const json& c : golden_cases["cases"]) {
      const std::string text = c["text"];
      INFO("text: ", json(text).dump(-1, ' ', true));
      CHECK((tokenizer.encode(text) == c["ids"].get<std::vector<int64_t>>()));
    }
  }
}

TEST_CASE("added tokens: ids equal the reference's on every hard string") {
  const TemporaryFolder folder;
  for (const char* file :
       {"tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer_added/tokenizer_config.json"}) {
    const std::filesystem::path from = golden(file);
    std::filesystem::copy(from, folder.path() / from.filename());
  }
  const ClipTokenizer by_config = ClipTokenizer::load(folder.path());
  REQUIRE(by_config.added(829) != nullptr);
  CHECK(by_config.added(829)->text == "<concept>");
  CHECK(by_config.added(0) == nullptr);
  CHECK(by_config.decode(by_config.tokenize("a <concept> dog")) == "a <concept> dog");
  const json golden_cases = json::parse(read_file(golden("tokenizer_added/cases.json")));
  REQUIRE(golden_cases["cases"].size() >= 2000);
  for (const json& c : golden_cases["cases"]) {
    const std::string text = c["text"];
    INFO("text: ", json(text).dump(-1, ' ', true));
    std::vector<int64_t> ids = by_config.encode(text);
    ids.resize(std::min(ids.size(), by_config.tokenize(text).size() + 2));
    CHECK((ids == c["ids"].get<std::vector<int64_t>>()));
  }
  // The older file names ids alone; its tokens are sought in the normalised text.
  std::filesystem::remove(folder / "tokenizer_config.json");
  std::filesystem::copy(golden("tokenizer_added/added_tokens.json"), folder / "added_tokens.json");
  const ClipTokenizer by_ids = ClipTokenizer::load(folder.path());
  CHECK((by_ids.tokenize("<CONCEPT>") == std::vector<int64_t>{829}));
}

TEST_CASE("a folder's own settings are read") {
  TemporaryFolder folder;
  const ClipVocab files = build_clip_vocab(word_list());
  write_file(folder / "vocab.json", files.vocab_json);
  write_file(folder / "merges.txt", files.merges_txt);
  CHECK(ClipTokenizer::load(folder.path()).max_length() == 77);
  write_file(folder / "tokenizer_config.json",
             "{\"pad_token\":{\"content\":\"!\"},\"model_max_length\":16}");
  const ClipTokenizer tokenizer = ClipTokenizer::load(folder.path());
  CHECK(tokenizer.pad_id() == 0);
  CHECK(tokenizer.encode("red").size() == 16);
  CHECK(tokenizer.encode("red").back() == 0);
  CHECK(tokenizer.tokenize("red!").back() == 0);
  CHECK(ClipTokenizer::load(golden("tokenizer")).pad_id() == 828);
}

TEST_CASE("length: EOS stays last when the text is cut") {
  const ClipTokenizer tokenizer = golden_tokenizer(ClipTokenizer::kEos);
  const std::vector<int64_t> cut = tokenizer.encode("a a a a a a a a", 5);
  REQUIRE(cut.size() == 5);
  CHECK(cut.front() == tokenizer.bos_id());
  CHECK(cut.back() == tokenizer.eos_id());
  CHECK(cut[3] != tokenizer.eos_id());
  const Tensor batch = tokenizer.encode_batch({"a a", ""}, 6);
  CHECK(batch.shape() == Shape({2, 6}));
  CHECK(batch.dtype() == DType::i64);
  CHECK((batch.select(0, 1).to_vector() == std::vector<double>{827, 828, 828, 828, 828, 828}));
  CHECK_THROWS_AS(tokenizer.encode("a", 1), Error);
}

TEST_CASE("every word of a built vocabulary is one token and any text can be spelled") {
  const ClipTokenizer tokenizer(build_clip_vocab(word_list()));
  std::set<int64_t> seen;
  for (const std::string& word : word_list()) {
    INFO(word);
    const std::vector<int64_t> ids = tokenizer.tokenize(word);
    REQUIRE(ids.size() == 1);
    CHECK(seen.insert(ids[0]).second);
    CHECK(tokenizer.decode(ids) == word);
  }
  CHECK(tokenizer.tokenize("427").size() == 3);
  CHECK(tokenizer.eos_id() == tokenizer.size() - 1);
  const std::string odd = "zebra \xf0\x9f\x98\x80 \x01";
  CHECK(tokenizer.decode(tokenizer.tokenize(odd)) == odd);
  CHECK(tokenizer.decode(tokenizer.encode("the red circle, 42")) == "the red circle , 4 2");
  const ClipVocab again = build_clip_vocab(word_list());
  CHECK(again.vocab_json == build_clip_vocab(word_list()).vocab_json);
}

TEST_CASE("bad input is named") {
  const ClipVocab good = build_clip_vocab({"red"});
  const auto message = [&](const ClipVocab& files, const std::string& pad = "<|endoftext|>") {
    return message_of([&] { ClipTokenizer t(files, pad); });
  };
  CHECK(message(good).empty());
  CHECK(contains(message({"[", good.merges_txt}), "vocab.json"));
  CHECK(contains(message({"{\"a\": 7}", ""}), "token 'a' has id 7"));
  CHECK(contains(message({"{\"a\": 0, \"b\": 0}", ""}), "share the id 0"));
  CHECK(contains(message({"{\"a\": 0}", ""}), "'<|startoftext|>' is missing"));
  CHECK(contains(message({good.vocab_json, "#version: 0.2\nx y\n"}), "line 2: 'xy' is not in"));
  CHECK(contains(message({good.vocab_json, "#version: 0.2\nabc\n"}), "expected two symbols"));
  CHECK(contains(message(good, "<pad>"), "'<pad>' is missing"));
  const ClipTokenizer tokenizer(good);
  CHECK(contains(message_of([&] { tokenizer.encode("a \xff b"); }), "not valid UTF-8"));
  CHECK(contains(message_of([&] { tokenizer.encode("\xed\xa0\x80"); }), "not valid UTF-8"));
}

TEST_CASE("threads share one tokenizer") {
  const ClipTokenizer tokenizer = golden_tokenizer(ClipTokenizer::kEos);
  const std::string text = "a photograph of a red circle on the beach, isn't it?";
  const std::vector<int64_t> expected = tokenizer.encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 100; ++i) count += tokenizer.encode(text) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK((wrong == std::vector<int>(4, 0)));
}
