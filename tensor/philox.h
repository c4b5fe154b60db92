// Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011) and keys.
// Randomness in parlo is keyed, never a stream: a key is derived from the seed and the names of
// what is drawn (cycle, expert, epoch, prompt, sample, step), so a resumed or re-sharded run draws
// the same bits.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace parlo {

using PhiloxBlock = std::array<uint32_t, 4>;

// Ten rounds on a 128-bit counter and a 64-bit key.
constexpr PhiloxBlock philox4x32_10(PhiloxBlock counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// A 64-bit key. fold(x) derives an independent key; equal paths give equal keys.
class RandomKey {
 public:
  constexpr explicit RandomKey(uint64_t seed) : bits_(seed) {}

  constexpr RandomKey fold(uint64_t x) const {
    // The counter's upper half separates key derivation from drawing, which leaves it 0.
    const PhiloxBlock out = philox4x32_10(
        {static_cast<uint32_t>(x), static_cast<uint32_t>(x >> 32), 0x6b657921u, 1u}, words());
    return RandomKey(uint64_t{out[1]} << 32 | out[0]);
  }

  // Names are folded by their FNV-1a hash.
  constexpr RandomKey fold(std::string_view name) const {
    uint64_t hash = 0xcbf29ce484222325ull;
    for (char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
    return fold(hash);
  }

  // 128 random bits number `index` of this key.
  constexpr PhiloxBlock block(uint64_t index) const {
    return philox4x32_10({static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32), 0u, 0u},
                         words());
  }

  constexpr uint64_t bits() const { return bits_; }
  constexpr std::array<uint32_t, 2> words() const {
    return {static_cast<uint32_t>(bits_), static_cast<uint32_t>(bits_ >> 32)};
  }

 private:
  uint64_t bits_;
};

// Uniform in (0, 1): the middle of one of 2^23 equal bins, exact in float32.
constexpr float uniform_from_bits(uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5f) * 0x1p-23f;
}

// A small sequential generator on a key, for shuffles and choices.
class Random {
 public:
  explicit Random(RandomKey key) : key_(key) {}

  uint32_t bits() {
    if (used_ == 4) {
      block_ = key_.block(next_++);
      used_ = 0;
    }
    return block_[used_++];
  }
  float uniform() { return uniform_from_bits(bits()); }
  // In [0, n), unbiased to 2^-32 (multiply-shift).
  uint32_t below(uint32_t n) { return static_cast<uint32_t>(uint64_t{bits()} * n >> 32); }

 private:
  RandomKey key_;
  PhiloxBlock block_{};
  uint64_t next_ = 0;
  int used_ = 4;
};

}  // namespace parlo
