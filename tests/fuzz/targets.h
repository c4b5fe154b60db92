// What the fuzzers feed: one function a loader, the same under libFuzzer and in the replay test.
// An input may be refused, by an Error of one line, or read; anything else that happens is a bug.
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace parlo::fuzz {

using Loader = void (*)(std::string_view input);

void safetensors(std::string_view input);
void adapter(std::string_view input);
void clip_tokenizer(std::string_view input);
void t5_json(std::string_view input);
void spiece(std::string_view input);
void config(std::string_view input);

struct Target {
  std::string_view name;
  Loader load;
};
std::span<const Target> targets();

// Runs one input. True: it was read; false: refused as it should be. What is wrong with a refusal
// (several lines, no end) goes on as std::logic_error, every other exception as it is.
bool run(Loader load, std::string_view input);

// An input of several files: `count` parts between record separators (0x1e, which JSON may not
// hold); the last one is all the rest, missing ones are empty.
std::vector<std::string_view> parts_of(std::string_view input, size_t count);

}  // namespace parlo::fuzz
