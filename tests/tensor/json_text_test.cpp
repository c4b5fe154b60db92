#include "tensor/json_text.h"

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("JSON is read, and what is wrong with it said in one line with its place") {
  CHECK(parse_json(R"({"a": [1, {"b": null}]})", "f").at("a").size() == 2);
  const auto ordered = parse_json<nlohmann::ordered_json>(R"({"b": 1, "a": 2})", "f");
  CHECK(ordered.begin().key() == "b");
  for (const char* bad : {"", "{", "[1,]", "{\"a\": 1e999}", "\"\xff\"", "1 2", "{\"a\nb\"}"}) {
    const std::string message = message_of([&] { parse_json(bad, "dir/f.json"); });
    CAPTURE(bad);
    CHECK(message.starts_with("dir/f.json: bad JSON: "));
    CHECK(message.size() < 200);
    CHECK(message.find('\n') == message.npos);
  }
}

TEST_CASE("JSON that is nested too deep is refused before anything recurses into it") {
  const auto nested = [](int depth, const std::string& open, const std::string& close) {
    std::string text;
    for (int i = 0; i < depth; ++i) text += open;
    text += "1";
    for (int i = 0; i < depth; ++i) text += close;
    return text;
  };
  CHECK_NOTHROW(parse_json(nested(kJsonDepth, "[", "]"), "f"));
  CHECK_NOTHROW(parse_json(nested(kJsonDepth, "{\"a\":", "}"), "f"));
  for (int depth : {kJsonDepth + 1, 200'000}) {
    for (const std::string& text :
         {nested(depth, "[", "]"), nested(depth, "{\"a\":", "}"), nested(depth, "[", "")}) {
      CHECK(contains(message_of([&] { parse_json(text, "f"); }), "f: bad JSON: nested deeper"));
    }
  }
  // Brackets in text do not count, and a quote in it may be escaped.
  CHECK_NOTHROW(parse_json("{\"" + std::string(1000, '[') + "\": \"\\\"[[\\\\\"}", "f"));
  const std::string beside = "[" + nested(40, "[", "]") + "," + nested(40, "[", "]") + "]";
  CHECK_NOTHROW(parse_json(beside, "f"));
}

TEST_CASE("a value in a message is short and printable") {
  CHECK(shown(nlohmann::json{{"a", "\n\x7f\u00e9"}}) == "{\"a\":\"\\n\\u007f\\u00e9\"}");
  CHECK(shown(nlohmann::json(std::string(1000, 'x'))).size() < 130);
  CHECK(shown(nlohmann::json("\xff")) == "\"\\ufffd\"");
}

TEST_CASE("an Error is one line, whatever name it tells") {
  CHECK(std::string(Error("a\nb\x1b[2J\tc").what()) == "a?b?[2J?c");
  CHECK(std::string(UsageError("\u00e9").what()) == "\u00e9");
}
