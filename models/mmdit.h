// Layers that multimodal diffusion transformers share (SD3, FLUX): image and text are two streams
// of tokens with weights of their own, modulated by one embedding, that attend to each other.
// Parameter names are those of diffusers.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "models/layers.h"

namespace parlo {

// Linear(SiLU(temb)) split into chunks of [B, D].
struct AdaLayerNorm {
  Linear linear;
  int64_t chunks = 0;

  AdaLayerNorm() = default;
  AdaLayerNorm(const Scope& scope, int64_t width, int64_t chunks);
  std::vector<Var> operator()(const Var& silu_temb) const;
};

// Linear, GELU-tanh, Linear: names net.0.proj, net.2.
struct FeedForward {
  Linear in, out;

  FeedForward() = default;
  FeedForward(const Scope& scope, int64_t width, int64_t inner);
  // residual + gate * y
  Var gated(const Var& x, const Var& gate, const Var& residual) const {
    return out.gated(in(x, Activation::gelu_tanh), gate, residual);
  }
};

// Where tokens are, for queries and keys: rotary angles of kernels/rope.h, in adjacent pairs.
struct Rotation {
  Tensor cos, sin;  // [T, D/2] f32; undefined: no rotation
  Var angles = {};  // [T, D/2] f64, where positions want a gradient
};

struct QkvNames {
  const char *q, *k, *v, *norm_q, *norm_k;
};
constexpr QkvNames kImageQkv{"to_q", "to_k", "to_v", "norm_q", "norm_k"};
constexpr QkvNames kTextQkv{"add_q_proj", "add_k_proj", "add_v_proj", "norm_added_q",
                            "norm_added_k"};

// Projections of one stream with optional per-head RMS norm on q and k, and rotation.
struct QkvStream {
  Linear q, k, v;
  Var norm_q, norm_k;  // [head_dim] or undefined
  int64_t heads = 1;

  QkvStream() = default;
  QkvStream(const Scope& scope, int64_t heads, int64_t head_dim, bool norm, const QkvNames& names);
  struct Out {
    Var q, k, v;  // [B, T, H, D]
  };
  Out operator()(const Var& x, const Rotation& rotation = {}) const;
};

// What these transformers have beside their layers, which hold leaves of params().
class MmditBase {
 public:
  MmditBase() = default;
  MmditBase(const MmditBase&) = delete;
  MmditBase& operator=(const MmditBase&) = delete;

  Params& params() { return params_; }
  const Params& params() const { return params_; }
  // Frozen matrices become bf16, and on a GPU the activations between input and output as well
  // (`compute`); statistics, softmax and adapters stay f32. Call it where the model will run.
  void narrow();
  // Recompute every block in the backward instead of keeping its inner values.
  bool checkpoint_blocks = false;
  // Of activations between input and output, which keep their own; bf16 needs a GPU.
  DType compute = DType::f32;

 protected:
  // A diffusers folder: config.json + diffusion_pytorch_model.safetensors.
  void write(const std::filesystem::path& folder, const std::string& config_json) const;

  Params params_;
};

// Weights and biases become 0.
void zero(const Linears& linears);

// Attention without a mask, scaled by 1 / sqrt(head size).
AttentionArgs plain_attention(const Var& q);

// Number of sinusoidal features of a timestep.
constexpr int64_t kTimestepChannels = 256;
// Sinusoidal features of timesteps [B] -> [B, 256]: [cos, sin] of t * exp(-ln(1e4) j / 128).
Var timestep_features(const Var& timestep);
// Those of given times, on the CPU; of noise levels, t = 1000 sigma, on the device.
Tensor time_features(const std::vector<float>& times);
Tensor sigma_features(std::span<const double> sigmas, Device device);

}  // namespace parlo
