#include "tools/world/vocabulary.h"

#include <set>
#include <sstream>

#include "tools/world/prompts.h"

namespace parlo {

std::vector<std::string> world_vocabulary() {
  std::set<std::string> words;
  for (std::string_view family : kFamilies) {
    for (const Split split : {Split::train, Split::held_out}) {
      for (const Prompt& prompt : world_prompts(family, split)) {
        std::istringstream in(prompt.text);
        for (std::string word; in >> word;) {
          if (word.find('"') == std::string::npos) words.insert(word);
        }
      }
    }
  }
  return {words.begin(), words.end()};
}

}  // namespace parlo
