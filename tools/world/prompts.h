// Every prompt of the built-in world, split into train and held-out sets that share no number, no
// word, no counted (number, colour, shape) and no pair of coloured shapes in either order.
//
// family      tag               example                              train / held out
// number      text              a sign that says "42" in red           480 / 120
// word        text              a sign that says "cat" in blue        1032 / 300
// counting    counting, colors  three red circles, a red circle         72 / 24
// position    position          a red circle left of a blue square    1080 / 360
// color_attr  color_attr        a red circle and a blue square         270 / 90
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "rl/rewards/prompt.h"

namespace parlo {

enum class Split { train, held_out };

inline constexpr std::string_view kFamilies[] = {"number", "word", "counting", "position",
                                                 "color_attr"};

// The family of one of the world's prompts.
std::string_view family_of(const Prompt& prompt);

// What a reward (or a family, or "text" for the first two) is trained or scored on, in a fixed
// shuffled order: ocr on text, geneval on shapes, any other reward on all families. Ids are unique
// across the world and never change.
std::vector<Prompt> world_prompts(std::string_view reward_or_family, Split split);

// `count` prompts with every family of the set equally often (families differ much in size): each
// family is walked in its shuffled order, again from the start when it ends. Use the position in
// the list as noise draw, then repeated prompts are still different samples.
std::vector<Prompt> balanced_prompts(std::string_view reward_or_family, Split split, int64_t count);

}  // namespace parlo
