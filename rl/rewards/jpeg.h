// Size of the image as a quality-95 JPEG with 4:2:0 chroma (the defaults behind the published
// rewards). Compressibility is -(kB)/500, incompressibility +kB: the two scales differ as
// published. Known holes: neither reads the prompt; a blank image wins the first, noise the second.
#pragma once

#include "rl/rewards/reward.h"

namespace parlo {

int64_t jpeg_bytes(const Image& image, int quality = 95);
Reward make_jpeg_compressibility_reward();
Reward make_jpeg_incompressibility_reward();

}  // namespace parlo
