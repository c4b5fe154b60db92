// Between 8-bit pictures and float tensors.
#pragma once

#include <span>
#include <vector>

#include "rl/rewards/image.h"
#include "tensor/tensor.h"

namespace parlo {

// pixels [B, 3, H, W] in [0, 1] (clipped, rounded to 1/255) -> pictures.
std::vector<Image> to_images(const Tensor& pixels);
// Pictures of one size -> [B, 3, H, W] f32 in [0, 1].
Tensor to_pixels(std::span<const Image> images);
// The same, normalised by CLIP's mean and standard deviation per channel.
Tensor clip_pixels(std::span<const Image> images);

}  // namespace parlo
