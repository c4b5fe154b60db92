// Pictures with captions for pre-training, from the train prompts alone.
#pragma once

#include <cstdint>
#include <vector>

#include "rl/rewards/image.h"
#include "rl/rewards/prompt.h"

namespace parlo {

struct SamplerOptions {
  uint64_t seed = 0;
  // Shares of the families; they are normalised by their sum.
  double numbers = 0.25, words = 0.25, counting = 0.25, position = 0.15, color_attr = 0.10;
  // Share of pictures that belong to another prompt of the same family than their caption names.
  // Real captions err as well, and a base that sometimes disobeys leaves its reward learnable.
  double caption_noise = 0;
};

struct CaptionedImage {
  Prompt prompt;
  Image image;
};

// Sample number `index` of the stream the options name.
CaptionedImage world_sample(const SamplerOptions& options, int64_t index);

// Samples first .. first + count - 1, drawn in parallel.
std::vector<CaptionedImage> world_batch(const SamplerOptions& options, int64_t first,
                                        int64_t count);

}  // namespace parlo
