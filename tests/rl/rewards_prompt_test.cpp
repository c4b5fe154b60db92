#include "rl/rewards/prompt.h"

#include <fstream>

#include "tests/support.h"

using namespace parlo;

namespace {

std::filesystem::path scratch(const char* name) {
  return std::filesystem::temp_directory_path() / (std::to_string(getpid()) + name);
}

std::string message_of(const std::string& line) {
  try {
    parse_prompt(line, 0, "file:3");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a line of GenEval's file is read") {
  const Prompt p = parse_prompt(
      R"({"tag": "position", "include": [{"class": "square", "count": 1},)"
      R"({"class": "circle", "count": 2, "color": "red", "position": ["left of", 0]}],)"
      R"("exclude": [], "prompt": "two red circles left of a square"})",
      7, "x");
  CHECK(p.id == 7);
  CHECK(p.tag == "position");
  REQUIRE(p.objects.size() == 2);
  CHECK((p.objects[0] == Object{"square", 1, "", "", 0}));
  CHECK((p.objects[1] == Object{"circle", 2, "red", "left of", 0}));
  CHECK(p.word.empty());
}

TEST_CASE("prompts survive a file") {
  std::vector<Prompt> prompts(2);
  prompts[0] = {3, "a sign that says \"42\" in red", "text", "42", {{"text", 1, "red", "", 0}}};
  prompts[1] = {9, "x", "position", "", {{"a", 1, "", "", 0}, {"b", 4, "blue", "above", 0}}};
  const std::filesystem::path path = scratch("prompts.jsonl");
  write_prompts(path, prompts);
  CHECK(read_prompts(path) == prompts);
  std::filesystem::remove(path);
}

TEST_CASE("quoted text") {
  CHECK(quoted_text("say \"a b\" and \"c\"") == "a b");
  CHECK(quoted_text("say \"\"") == "");
  CHECK(quoted_text("one \" only") == "");
  CHECK(quoted_text("none") == "");
}

TEST_CASE("bad lines are refused with their place") {
  for (const char* line :
       {"", "{", "[]", "{\"prompt\": 3}", "{\"prompt\": \"\"}", "{\"tag\": \"colors\"}",
        R"({"prompt":"x","include":[{"count":1}]})", R"({"prompt":"x","include":[{"class":""}]})",
        R"({"prompt":"x","include":[{"class":"a","count":0}]})",
        R"({"prompt":"x","include":[{"class":"a","position":["left of",0]}]})",
        R"({"prompt":"x","include":[{"class":"a","position":["left of"]}]})"}) {
    CAPTURE(line);
    CHECK(message_of(line).find("file:3") == 0);
  }
}

TEST_CASE("missing and empty files are refused") {
  CHECK_THROWS_AS(read_prompts(scratch("absent")), UsageError);
  const std::filesystem::path path = scratch("empty.jsonl");
  std::ofstream(path) << "\n  \n";
  CHECK_THROWS_AS(read_prompts(path), UsageError);
  std::filesystem::remove(path);
  CHECK_THROWS_AS(write_prompts("/nonexistent/x", {}), Error);
}
