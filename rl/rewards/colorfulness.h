// Hasler and Suesstrunk, "Measuring colourfulness in natural images" (2003):
// M = |std(rg), std(yb)| + 0.3 |mean(rg), mean(yb)|, rg = R-G, yb = (R+G)/2-B; the score is
// M / 150 clipped to [0, 1].
// Known holes: it never reads the prompt; neon colours and inflated objects win.
#pragma once

#include "rl/rewards/reward.h"

namespace parlo {

double colorfulness(const Image& image);
Reward make_colorfulness_reward();

}  // namespace parlo
