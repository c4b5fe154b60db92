// The built-in world "signs": draws the picture a prompt describes. Place, size, hue and background
// vary with the seed, so that no picture follows from its prompt alone.
#pragma once

#include <cstdint>

#include "rl/rewards/image.h"
#include "rl/rewards/prompt.h"

namespace parlo {

inline constexpr int kWorldSize = 32;  // pixels a side

// Equal (prompt text, seed) give equal pixels, on any thread. The prompt is one of world_prompts()
// or has the same form: a quoted word in one colour, or one or two kinds of shapes of which at
// most four are drawn. UsageError for anything else.
Image render(const Prompt& prompt, uint64_t seed);

}  // namespace parlo
