// A prompt with the facts a judge needs, and its JSONL form, which is GenEval's:
// {"tag":"position","include":[{"class":"square","count":1,"color":"blue"},
//  {"class":"circle","count":1,"color":"red","position":["left of",0]}],"prompt":"..."}
// Text prompts carry the word to be read in their first pair of double quotes.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace parlo {

struct Object {
  std::string name;  // "class" in the file
  int count = 1;
  std::string color;     // empty: any
  std::string relation;  // of this object to objects[target]; empty: none asked
  int target = 0;
  bool operator==(const Object&) const = default;
};

struct Prompt {
  int64_t id = 0;
  std::string text;
  std::string tag;   // GenEval's tags, or "text"
  std::string word;  // what `text` quotes; empty without quotes
  std::vector<Object> objects;
  int source = -1;  // in a mixture of prompt lists: which one it is from; not in files
  bool operator==(const Prompt&) const = default;
};

// The text inside the first pair of double quotes, empty when there is none.
std::string quoted_text(std::string_view text);

// One line of JSON, without the newline.
std::string to_json_line(const Prompt& prompt);

// `where` ("file:line") opens every error message. `id` is used when the line has none.
Prompt parse_prompt(std::string_view line, int64_t id, const std::string& where);

// UsageError when the file is missing, empty or malformed; plain lines are not accepted.
std::vector<Prompt> read_prompts(const std::filesystem::path& path);
void write_prompts(const std::filesystem::path& path, std::span<const Prompt> prompts);

}  // namespace parlo
