#include "rl/rewards/prompt.h"

#include <fstream>

#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/file.h"
#include "tensor/json_text.h"

namespace parlo {
namespace {

using Json = nlohmann::ordered_json;

Object parse_object(const Json& item, size_t index) {
  Object object;
  object.name = item.at("class").get<std::string>();
  object.count = item.value("count", 1);
  object.color = item.value("color", "");
  if (object.name.empty()) throw UsageError("an empty \"class\"");
  if (object.count < 1) throw UsageError(concat("\"count\" is ", object.count, ", expected >= 1"));
  if (!item.contains("position")) return object;
  const Json& position = item.at("position");
  object.relation = position.at(0).get<std::string>();
  object.target = position.at(1).get<int>();
  if (object.target < 0 || static_cast<size_t>(object.target) >= index)
    throw UsageError(
        concat("\"position\" refers to object ", object.target, ", expected one listed before it"));
  return object;
}

}  // namespace

std::string quoted_text(std::string_view text) {
  const size_t open = text.find('"');
  if (open == std::string_view::npos) return "";
  const size_t close = text.find('"', open + 1);
  if (close == std::string_view::npos) return "";
  return std::string(text.substr(open + 1, close - open - 1));
}

std::string to_json_line(const Prompt& prompt) {
  Json line;
  line["id"] = prompt.id;
  line["tag"] = prompt.tag;
  line["include"] = Json::array();
  for (const Object& object : prompt.objects) {
    Json item = {{"class", object.name}, {"count", object.count}};
    if (!object.color.empty()) item["color"] = object.color;
    if (!object.relation.empty()) item["position"] = {object.relation, object.target};
    line["include"].push_back(std::move(item));
  }
  line["prompt"] = prompt.text;
  return line.dump();
}

Prompt parse_prompt(std::string_view line, int64_t id, const std::string& where) {
  try {
    const Json json = parse_json<Json>(line, "this line");
    Prompt prompt;
    prompt.id = json.value("id", id);
    prompt.text = json.at("prompt").get<std::string>();
    prompt.tag = json.value("tag", "");
    prompt.word = quoted_text(prompt.text);
    if (json.contains("include"))
      for (const Json& item : json.at("include"))
        prompt.objects.push_back(parse_object(item, prompt.objects.size()));
    if (prompt.text.empty()) throw UsageError("an empty \"prompt\"");
    return prompt;
  } catch (const std::exception& error) {  // nlohmann's own and ours alike
    throw UsageError(concat(where, ": ", error.what(),
                            "; expected a line like {\"tag\":\"colors\",\"include\":[{\"class\":"
                            "\"circle\",\"count\":1,\"color\":\"red\"}],\"prompt\":\"...\"}"));
  }
}

std::vector<Prompt> read_prompts(const std::filesystem::path& path) {
  std::ifstream in(path);
  if (!in) throw UsageError(concat(path.string(), ": cannot be opened; give a JSONL prompt file"));
  std::vector<Prompt> prompts;
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    prompts.push_back(parse_prompt(line, static_cast<int64_t>(prompts.size()),
                                   concat(path.string(), ":", number)));
  }
  if (prompts.empty()) throw UsageError(concat(path.string(), ": holds no prompts"));
  return prompts;
}

void write_prompts(const std::filesystem::path& path, std::span<const Prompt> prompts) {
  std::string lines;
  for (const Prompt& prompt : prompts) lines += to_json_line(prompt) + '\n';
  write_file(path, lines);
}

}  // namespace parlo
