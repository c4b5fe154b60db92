#include "tools/world/prompts.h"

#include <algorithm>
#include <array>
#include <map>
#include <utility>

#include "rl/rewards/scene.h"
#include "tensor/error.h"
#include "tensor/philox.h"
#include "tools/world/words.h"

namespace parlo {
namespace {

constexpr int kNumColors = static_cast<int>(kColors.size());
constexpr int kNumShapes = static_cast<int>(kShapes.size());
constexpr size_t kHeldOutWords = 50;
const RandomKey kSplitKey = RandomKey(20).fold("signs split");

struct Entry {
  Prompt prompt;
  std::string_view family;
  Split split;
};

template <class T>
void shuffle(std::vector<T>& items, RandomKey key) {
  Random random(key);
  for (size_t i = items.size(); i > 1; --i)
    std::swap(items[i - 1], items[random.below(static_cast<uint32_t>(i))]);
}

// One shape in one colour.
struct Thing {
  int shape, color;
  std::string text() const {
    return "a " + std::string(kColors[color].name) + " " + std::string(kShapes[shape]);
  }
  Object object() const {
    return {std::string(kShapes[shape]), 1, std::string(kColors[color].name), "", 0};
  }
  int index() const { return shape * kNumColors + color; }
};

void add_text_prompts(const std::string& word, std::string_view family, Split split,
                      std::vector<Entry>& out) {
  for (const NamedHue& color : kColors) {
    Prompt prompt;
    prompt.text = "a sign that says \"" + word + "\" in " + std::string(color.name);
    prompt.tag = "text";
    prompt.word = word;
    prompt.objects = {{"text", 1, std::string(color.name), "", 0}};
    out.push_back({std::move(prompt), family, split});
  }
}

// Two numbers of every decade, such that every last digit is held out twice as well.
void add_numbers(std::vector<Entry>& out) {
  for (int tens = 0; tens < 10; ++tens)
    for (int ones = 0; ones < 10; ++ones) {
      const bool held = ones == (3 * tens + 1) % 10 || ones == (3 * tens + 6) % 10;
      add_text_prompts(std::to_string(tens) + std::to_string(ones), "number",
                       held ? Split::held_out : Split::train, out);
    }
}

// A word is held out only while each of its letters still stands in the same place in at least
// three words of the train set: what is tested is spelling, not an unseen letter.
std::vector<std::string_view> held_out_words() {
  std::map<std::pair<char, int>, int> left;
  std::vector<std::string_view> order(std::begin(kWords), std::end(kWords)), held;
  for (std::string_view word : order)
    for (int i = 0; i < 3; ++i) ++left[{word[i], i}];
  shuffle(order, kSplitKey.fold("words"));
  for (std::string_view word : order) {
    bool spare = held.size() < kHeldOutWords;
    for (int i = 0; i < 3; ++i) spare = spare && left[{word[i], i}] > 3;
    if (!spare) continue;
    for (int i = 0; i < 3; ++i) --left[{word[i], i}];
    held.push_back(word);
  }
  return held;
}

void add_words(std::vector<Entry>& out) {
  const std::vector<std::string_view> held = held_out_words();
  for (std::string_view word : kWords) {
    const bool is_held = std::find(held.begin(), held.end(), word) != held.end();
    add_text_prompts(std::string(word), "word", is_held ? Split::held_out : Split::train, out);
  }
}

void add_counting(std::vector<Entry>& out) {
  constexpr std::array<std::string_view, 5> kNumbers = {"", "a", "two", "three", "four"};
  for (int count = 1; count <= 4; ++count)
    for (int shape = 0; shape < kNumShapes; ++shape)
      for (int color = 0; color < kNumColors; ++color) {
        const std::string_view plural = count == 1 ? "" : kShapes[shape] == "cross" ? "es" : "s";
        Prompt prompt;
        prompt.text =
            concat(kNumbers[count], " ", kColors[color].name, " ", kShapes[shape], plural);
        prompt.tag = count == 1 ? "colors" : "counting";
        prompt.objects = {
            {std::string(kShapes[shape]), count, std::string(kColors[color].name), "", 0}};
        out.push_back({std::move(prompt), "counting",
                       (count + shape + color) % 4 == 0 ? Split::held_out : Split::train});
      }
}

// Ordered pairs of things that differ in shape and colour, with the split of the unordered pair.
struct Pair {
  Thing first, second;
  Split split;
};

std::vector<Pair> all_pairs() {
  std::vector<Thing> things;
  for (int shape = 0; shape < kNumShapes; ++shape)
    for (int color = 0; color < kNumColors; ++color) things.push_back({shape, color});
  std::vector<std::pair<int, int>> unordered;
  const auto differ = [](const Thing& a, const Thing& b) {
    return a.shape != b.shape && a.color != b.color;
  };
  for (const Thing& a : things)
    for (const Thing& b : things)
      if (a.index() < b.index() && differ(a, b)) unordered.emplace_back(a.index(), b.index());
  shuffle(unordered, kSplitKey.fold("pairs"));
  unordered.resize(unordered.size() / 4);  // held out
  std::sort(unordered.begin(), unordered.end());
  std::vector<Pair> pairs;
  for (const Thing& a : things)
    for (const Thing& b : things) {
      if (!differ(a, b)) continue;
      const bool held = std::binary_search(unordered.begin(), unordered.end(),
                                           std::minmax({a.index(), b.index()}));
      pairs.push_back({a, b, held ? Split::held_out : Split::train});
    }
  return pairs;
}

void add_pairs(std::vector<Entry>& out) {
  const std::vector<Pair> pairs = all_pairs();
  for (std::string_view relation : kRelations)
    for (const Pair& pair : pairs) {
      Prompt prompt;
      prompt.text = concat(pair.first.text(), " ", relation, " ", pair.second.text());
      prompt.tag = "position";
      // As in GenEval's files, what the position refers to is listed first.
      Object placed = pair.first.object();
      placed.relation = relation;
      prompt.objects = {pair.second.object(), placed};
      out.push_back({std::move(prompt), "position", pair.split});
    }
  for (const Pair& pair : pairs) {
    Prompt prompt;
    prompt.text = concat(pair.first.text(), " and ", pair.second.text());
    prompt.tag = "color_attr";
    prompt.objects = {pair.first.object(), pair.second.object()};
    out.push_back({std::move(prompt), "color_attr", pair.split});
  }
}

const std::vector<Entry>& world() {
  static const std::vector<Entry> all = [] {
    std::vector<Entry> out;
    add_numbers(out);
    add_words(out);
    add_counting(out);
    add_pairs(out);
    for (size_t i = 0; i < out.size(); ++i) out[i].prompt.id = static_cast<int64_t>(i);
    return out;
  }();
  return all;
}

std::vector<std::string_view> families_of(std::string_view name) {
  if (name == "ocr" || name == "text") return {"number", "word"};
  if (name == "geneval" || name == "geneval_strict") return {"counting", "position", "color_attr"};
  for (std::string_view family : kFamilies)
    if (family == name) return {family};
  return {std::begin(kFamilies), std::end(kFamilies)};
}

}  // namespace

std::string_view family_of(const Prompt& prompt) {
  if (prompt.tag == "text")
    return !prompt.word.empty() && prompt.word[0] >= '0' && prompt.word[0] <= '9' ? "number"
                                                                                  : "word";
  return prompt.tag == "position" || prompt.tag == "color_attr" ? std::string_view(prompt.tag)
                                                                : "counting";
}

std::vector<Prompt> world_prompts(std::string_view reward_or_family, Split split) {
  const std::vector<std::string_view> families = families_of(reward_or_family);
  std::vector<Prompt> prompts;
  for (const Entry& entry : world())
    if (entry.split == split &&
        std::find(families.begin(), families.end(), entry.family) != families.end())
      prompts.push_back(entry.prompt);
  shuffle(prompts, kSplitKey.fold("order"));
  return prompts;
}

std::vector<Prompt> balanced_prompts(std::string_view reward_or_family, Split split,
                                     int64_t count) {
  std::vector<std::vector<Prompt>> lists;
  for (std::string_view family : families_of(reward_or_family))
    lists.push_back(world_prompts(family, split));
  std::vector<Prompt> prompts;
  for (int64_t i = 0; i < count; ++i) {
    const std::vector<Prompt>& list = lists[i % lists.size()];
    prompts.push_back(list[i / lists.size() % list.size()]);
  }
  return prompts;
}

}  // namespace parlo
