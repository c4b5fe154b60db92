#include "tests/fuzz/targets.h"

#include <array>

namespace parlo::fuzz {

std::span<const Target> targets() {
  static constexpr std::array<Target, 6> all{{{"safetensors", safetensors},
                                              {"adapter", adapter},
                                              {"clip_tokenizer", clip_tokenizer},
                                              {"t5_json", t5_json},
                                              {"spiece", spiece},
                                              {"config", config}}};
  return all;
}

}  // namespace parlo::fuzz
