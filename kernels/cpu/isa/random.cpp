// Philox 4x32-10 on kRegLanes blocks at once. Each 32-bit word has a 64-bit lane to itself, where
// its product with a round constant is one instruction; garbage above the word is ignored.
#include "kernels/cpu/isa/random_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regloop.h"
#include "kernels/cpu/isa/regtrig.h"

namespace parlo::cpu {
namespace {

constexpr int kWide = kRegLanes / 2;   // 64-bit lanes
constexpr int kDraws = 4 * kRegLanes;  // floats from kRegLanes blocks
typedef uint64_t Wide __attribute__((vector_size(sizeof(Reg))));

inline Wide multiply(Wide a, uint64_t constant) {
#ifdef PARLO_AVX512
  return reinterpret_cast<Wide>(_mm512_mul_epu32(
      reinterpret_cast<__m512i>(a), _mm512_set1_epi64(static_cast<int64_t>(constant))));
#else
  return reinterpret_cast<Wide>(_mm256_mul_epu32(
      reinterpret_cast<__m256i>(a), _mm256_set1_epi64x(static_cast<int64_t>(constant))));
#endif
}

struct Blocks {
  Wide word[4];
};

inline Blocks philox(Wide counter, uint64_t key) {
  Wide c0 = counter, c1 = counter >> 32, c2 = {}, c3 = {};
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
#pragma GCC unroll 10
  for (int round = 0; round < 10; ++round) {
    const Wide p0 = multiply(c0, 0xD2511F53u), p1 = multiply(c2, 0xCD9E8D57u);
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// Lane l = 4 j + k holds block `(kRegLanes / 4) k + j`, the order that store_blocks undoes.
inline Wide block_numbers(int odd) {
  Wide w;
  for (int i = 0; i < kWide; ++i) {
    const int lane = 2 * i + odd;
    w[i] = static_cast<uint64_t>(kRegLanes / 4 * (lane % 4) + lane / 4);
  }
  return w;
}

// Uniform in (0, 1) from the words of lanes 0, 2, .. (a) and 1, 3, .. (b): as uniform_from_bits.
inline Reg uniform_of(Wide a, Wide b) {
  const Wide bits = (a & 0xffffffffu) | (b << 32);
#ifdef PARLO_AVX512
  const Reg bin = _mm512_cvtepi32_ps(_mm512_srli_epi32(reinterpret_cast<__m512i>(bits), 9));
#else
  const Reg bin = _mm256_cvtepi32_ps(_mm256_srli_epi32(reinterpret_cast<__m256i>(bits), 9));
#endif
  return (bin + reg_set(0.5f)) * reg_set(0x1p-23f);
}

// Words 0..3 of every block to four consecutive floats.
inline void store_blocks(const Reg (&w)[4], float* out) {
#ifdef PARLO_AVX512
  const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(w[0], w[1])),
                b = _mm512_castps_pd(_mm512_unpackhi_ps(w[0], w[1])),
                c = _mm512_castps_pd(_mm512_unpacklo_ps(w[2], w[3])),
                d = _mm512_castps_pd(_mm512_unpackhi_ps(w[2], w[3]));
  reg_store(out, _mm512_castpd_ps(_mm512_unpacklo_pd(a, c)));
  reg_store(out + kRegLanes, _mm512_castpd_ps(_mm512_unpackhi_pd(a, c)));
  reg_store(out + 2 * kRegLanes, _mm512_castpd_ps(_mm512_unpacklo_pd(b, d)));
  reg_store(out + 3 * kRegLanes, _mm512_castpd_ps(_mm512_unpackhi_pd(b, d)));
#else
  const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(w[0], w[1])),
                b = _mm256_castps_pd(_mm256_unpackhi_ps(w[0], w[1])),
                c = _mm256_castps_pd(_mm256_unpacklo_ps(w[2], w[3])),
                d = _mm256_castps_pd(_mm256_unpackhi_ps(w[2], w[3]));
  reg_store(out, _mm256_castpd_ps(_mm256_unpacklo_pd(a, c)));
  reg_store(out + kRegLanes, _mm256_castpd_ps(_mm256_unpackhi_pd(a, c)));
  reg_store(out + 2 * kRegLanes, _mm256_castpd_ps(_mm256_unpacklo_pd(b, d)));
  reg_store(out + 3 * kRegLanes, _mm256_castpd_ps(_mm256_unpackhi_pd(b, d)));
#endif
}

// Box-Muller: radius from the first word, angle 2 pi u from the second. u minus its nearest
// quarter turn is exact.
inline void normal_pair(Reg& first, Reg& second) {
  const Reg radius = reg_sqrt(reg_set(-2) * reg_log(first));
  const Reg quarter = reg_round(second * reg_set(4));
  const Reg rest = reg_fma(quarter, reg_set(-0.25f), second);
  const SinCos turn = reg_sincos_quarter(rest * reg_set(6.28318531f), quarter);
  first = radius * turn.cos;
  second = radius * turn.sin;
}

template <bool kNormal>
void draw(uint64_t key, uint64_t block, float* out) {
  const Blocks a = philox(block_numbers(0) + block, key), b = philox(block_numbers(1) + block, key);
  Reg w[4];
  for (int i = 0; i < 4; ++i) w[i] = uniform_of(a.word[i], b.word[i]);
  if constexpr (kNormal) {
    normal_pair(w[0], w[1]);
    normal_pair(w[2], w[3]);
  }
  store_blocks(w, out);
}

template <bool kNormal>
void fill(uint64_t key, uint64_t first, float* out, int64_t n) {
  uint64_t block = first / 4;
  int64_t i = 0;
  for (; i + kDraws <= n; i += kDraws, block += kRegLanes) draw<kNormal>(key, block, out + i);
  if (i == n) return;
  float last[kDraws];
  draw<kNormal>(key, block, last);
  __builtin_memcpy(out + i, last, static_cast<size_t>(n - i) * sizeof(float));
}

}  // namespace

extern const RandomIsa PARLO_ISA_NAME(random);
const RandomIsa PARLO_ISA_NAME(random) = {fill<false>, fill<true>};

}  // namespace parlo::cpu
