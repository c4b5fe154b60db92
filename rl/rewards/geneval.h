// GenEval's dense score over the shapes that detect_shapes finds. Terms of every required object:
//   count 1 - |n_req - n| / n_req (negative when n > 2 n_req, as published);
//   when n != n_req and a colour or a position is asked, a 0;
//   else the colour term 1 - |n_req - n_colour| / n_req, and, only if the colours matched, the
//   position term. Score: the mean of the terms.
// The position of an object is right when its centre's offset to every target, each component
// shortened by a tenth of both sizes, exceeds half the offset's length in the asked direction.
//
// Known holes: objects nobody asked for cost nothing unless they share a class; size, background
// and everything the detector does not see go unjudged; blank images score 0.
#pragma once

#include "rl/rewards/detector.h"
#include "rl/rewards/reward.h"

namespace parlo {

struct GenevalOptions {
  // The published code appends 1 after the 0 of a wrong position, so a wrong position counts as
  // two terms with mean one half. False: one term, 0 or 1.
  bool published_position_quirk = true;
  // False, as published: three circles where one was asked give a count term of -1.
  bool floor_terms_at_zero = false;
};

struct GenevalScore {
  double dense = 0;
  bool strict = false;  // every count, colour and position exact
};

GenevalScore geneval_score(std::span<const Detection> found, const Prompt& prompt,
                           const GenevalOptions& options = {});

Reward make_geneval_reward(const GenevalOptions& options);
Reward make_geneval_strict_reward();

}  // namespace parlo
