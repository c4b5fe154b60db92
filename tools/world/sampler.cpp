#include "tools/world/sampler.h"

#include <array>
#include <numeric>

#include "tensor/error.h"
#include "tensor/parallel.h"
#include "tensor/philox.h"
#include "tools/world/prompts.h"
#include "tools/world/render.h"

namespace parlo {
namespace {

constexpr size_t kNumFamilies = std::size(kFamilies);

const std::vector<Prompt>& train_prompts(size_t family) {
  static const std::array<std::vector<Prompt>, kNumFamilies> lists = [] {
    std::array<std::vector<Prompt>, kNumFamilies> out;
    for (size_t i = 0; i < kNumFamilies; ++i) out[i] = world_prompts(kFamilies[i], Split::train);
    return out;
  }();
  return lists[family];
}

size_t draw_family(const SamplerOptions& options, Random& random) {
  const std::array<double, kNumFamilies> shares = {options.numbers, options.words, options.counting,
                                                   options.position, options.color_attr};
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  CHECK(sum > 0, "world_sample: the shares of the families sum to ", sum, ", expected more than 0");
  double left = random.uniform() * sum;
  size_t family = 0;
  while (family + 1 < kNumFamilies && left >= shares[family]) left -= shares[family++];
  return family;
}

}  // namespace

CaptionedImage world_sample(const SamplerOptions& options, int64_t index) {
  const RandomKey key =
      RandomKey(options.seed).fold("signs sample").fold(static_cast<uint64_t>(index));
  Random random(key);
  const std::vector<Prompt>& prompts = train_prompts(draw_family(options, random));
  const auto draw = [&]() -> const Prompt& {
    return prompts[random.below(static_cast<uint32_t>(prompts.size()))];
  };
  const Prompt& caption = draw();
  const Prompt& drawn = random.uniform() < options.caption_noise ? draw() : caption;
  return {caption, render(drawn, key.fold("picture").bits())};
}

std::vector<CaptionedImage> world_batch(const SamplerOptions& options, int64_t first,
                                        int64_t count) {
  std::vector<CaptionedImage> samples(static_cast<size_t>(count));
  parallel_for(count, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) samples[i] = world_sample(options, first + i);
  });
  return samples;
}

}  // namespace parlo
