// Attention of the newest tokens of B sequences over their key-value cache, without a gradient.
//   out = softmax(scale * q k') v over the keys of the shared prefix, then the sequence's own ones
//
// One layout, for rollouts of groups (GRPO: G completions of each prompt): a prompt's keys are kept
// once, in the prefix, and read once for all G sequences; each sequence has room for the tokens it
// adds. Both are [.., T, Hkv, D], as a projection writes them and `attention` takes them: prefill
// is `attention` over the prompts with its k and v kept, appending a token is one contiguous copy.
// No table of blocks: completions of a rollout start together and share the bound on their length,
// so that pages would save only what idle sequences leave unused. The last axis has stride 1,
// others any: slices of one tensor for all layers, or of the part of the room in use.
//
// Bits of a sequence do not depend on the others, on B, G, room or threads, but on where the prefix
// ends; they are not those of `attention`, which sums in another order.
#pragma once

#include "tensor/tensor.h"

namespace parlo {

// The cache of one layer. Sequence b belongs to group b / G, with G = B / P.
struct KvCache {
  Tensor k, v;     // [B, Tmax, Hkv, D]
  Tensor lengths;  // [B] i64: own tokens before the current ones; negative: the sequence is idle,
                   // nothing is appended and its output is 0
  Tensor prefix_k, prefix_v;  // [P, Tp, Hkv, D], optional
  Tensor prefix_lengths;      // [P] i64 in 0 .. Tp, optional: all Tp otherwise
};

namespace cpu {

// Writes k, v [B, Tq, Hkv, D] at cache.lengths[b] of every sequence. Lengths stay: the caller adds
// Tq when all layers are done. Tokens beyond the room are an Error on the CPU; a GPU, where looking
// would wait for the device, drops them.
void cache_append(const Tensor& k, const Tensor& v, const KvCache& cache);

// out, q [B, Tq, H, D], H a multiple of Hkv. After cache_append of the same tokens: query i of
// sequence b sees the prefix and own keys 0 .. lengths[b] + i. Beyond the room: an Error on the
// CPU, NaN on a GPU. f32 and f64; on a GPU f32 and bf16, D at most 256.
void decode_attention(const Tensor& q, const KvCache& cache, double scale, const Tensor& out);

}  // namespace cpu

// The same on a GPU: kernels/cuda.
namespace cuda {
decltype(cpu::cache_append) cache_append;
decltype(cpu::decode_attention) decode_attention;
}  // namespace cuda
}  // namespace parlo
