// OCR reward: the quoted text t of the prompt, lower-cased and without spaces, against what
// Tesseract reads: 1 - d / len(t), d = 0 when t is part of the reading, else the Levenshtein
// distance capped at len(t).
//
// Known holes: the colour, size and place of the text go unjudged, a legible wrong colour scores 1;
// longer readings that contain t score 1; digits and letters of one shape (0 and o, 1 and i) are
// told apart by context alone. Blank images and noise score about 0.
#pragma once

#include <string>
#include <string_view>

#include "rl/rewards/reward.h"

namespace parlo {

int64_t levenshtein(std::string_view a, std::string_view b);

// The score of a reading, both texts as they come.
double ocr_score(std::string_view target, std::string_view reading);

// What Tesseract reads, as it comes. Threads that read at once each have an engine of their own
// (about 10 MB, 60 ms to load).
std::string read_text(const Image& image);

Reward make_ocr_reward();

}  // namespace parlo
