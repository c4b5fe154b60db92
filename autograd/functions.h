// Kernels for tensors that carry no gradient, for the folders above autograd/ (which do not include
// kernels/): random draws, finiteness, the flow step, averages, the decode step of a language
// model.
#pragma once

#include <vector>

#include "kernels/decode.h"
#include "kernels/flow_step.h"
#include "kernels/skinny.h"
#include "tensor/philox.h"
#include "tensor/tensor.h"

namespace parlo {

// f32 draws from a key; element i depends on the key and i alone.
Tensor random_normal(RandomKey key, const Shape& shape, double std = 1.0, Device device = {});
Tensor random_uniform(RandomKey key, const Shape& shape, Device device = {});

bool all_finite(const Tensor& x);
double sum_squares(const Tensor& x);
// y += alpha * x
void add_scaled(const Tensor& y, double alpha, const Tensor& x);
// c = alpha op(a) op(b) + beta c
void matmul_into(const Tensor& a, bool trans_a, const Tensor& b, bool trans_b, const Tensor& c,
                 double alpha, double beta);

struct FlowStep {
  Tensor next;      // [B, D]
  Tensor log_prob;  // [B]
};
// One sampler step; see kernels/flow_step.h. keys has one entry a sample.
FlowStep flow_step(const FlowCoefficients& c, const Tensor& x, const Tensor& v,
                   const std::vector<RandomKey>& keys);
Tensor flow_log_prob(const FlowCoefficients& c, const Tensor& x, const Tensor& v,
                     const Tensor& next);

struct FlowLoss {
  Tensor loss, ratio, kl;  // [B]
  Tensor dv;               // [B, D]: gradient of loss[b] with respect to v[b]
};
FlowLoss flow_loss(const FlowCoefficients& c, const Tensor& x, const Tensor& v, const Tensor& next,
                   const Tensor& old_log_prob, const Tensor& advantage, const Tensor& v_ref,
                   const FlowLossArgs& args);

// A decode step: kernels/decode.h and kernels/skinny.h. For every layer: q, k, v of the new tokens
// by skinny_linear, cache_append, decode_attention; then the caller advances the lengths.
// k, v [B, Tq, Hkv, D] behind each sequence's own tokens.
void cache_append(const Tensor& k, const Tensor& v, const KvCache& cache);
// q [B, Tq, H, D] -> [B, Tq, H, D]
Tensor decode_attention(const Tensor& q, const KvCache& cache, double scale);
// x [..., K], w [N, K] -> [..., N]
Tensor skinny_linear(const Tensor& x, const Tensor& w, const LinearArgs& args = {});

}  // namespace parlo
