// What VAEs are made of, in bf16: 3 x 3 convolutions of images and causal ones of frames with bias
// and residual, 2 B in out taps D H W operations; group norm with silu and nearest upsampling,
// bytes read and written once.
#include "bench/gpu_measure.h"
#include "bench/gpu_shapes.h"
#include "kernels/conv.h"
#include "kernels/norm.h"
#include "kernels/resize.h"

namespace parlo::bench {
namespace {

struct Sizes {
  int64_t batch, frames, height, width, in, out;

  Shape volume(int64_t channels) const { return {batch, channels, frames, height, width}; }
  double elements(int64_t channels) const { return static_cast<double>(volume(channels).numel()); }
  int64_t depth() const { return frames > 1 ? 3 : 1; }
  double flops() const { return 2 * elements(out) * static_cast<double>(in * depth() * 9); }
  Conv3dArgs args() const {
    if (frames > 1) return causal_conv3d(3);
    return as_conv3d({1, 1, 1});
  }
};

struct Convolution {
  Tensor x, w, bias, residual, y;
};

// Channels side by side are read as they lie; else a copy in that order is part of the time.
Convolution convolution(RandomKey key, const Sizes& s, bool channels_last) {
  const Shape rows = {s.batch, s.frames, s.height, s.width, s.in};
  const Tensor x = channels_last ? normal(key.fold("x"), rows).permute({0, 4, 1, 2, 3})
                                 : normal(key.fold("x"), s.volume(s.in));
  return {x, normal(key.fold("w"), {s.out, s.in, s.depth(), 3, 3}),
          normal(key.fold("bias"), {s.out}), normal(key.fold("residual"), s.volume(s.out)),
          room(s.volume(s.out))};
}

void conv_forward(benchmark::State& state, const Sizes& s, bool channels_last) {
  const Conv3dArgs args = s.args();
  const Timing t =
      rotate([&](RandomKey key) { return convolution(key, s, channels_last); },
             [&](const Convolution& o) { cuda::conv3d(o.x, o.w, o.bias, o.residual, o.y, args); });
  report(state, t, {s.flops(), 0});
}

void conv_dx(benchmark::State& state, const Sizes& s) {
  const Conv3dArgs args = s.args();
  const Timing t =
      rotate([&](RandomKey key) { return convolution(key, s, false); },
             [&](const Convolution& o) {
               cuda::conv3d_backward(o.x, o.w, o.residual, o.x, Tensor(), Tensor(), args);
             });
  report(state, t, {s.flops(), 0});
}

struct Normed {
  Tensor x, y, mean, rstd, dy;
  NormParams p;
};

Normed normed(RandomKey key, const Sizes& s) {
  Normed o;
  o.x = normal(key.fold("x"), s.volume(s.out)), o.y = room(s.volume(s.out));
  o.dy = normal(key.fold("dy"), s.volume(s.out));
  o.mean = room({s.batch, 32}, DType::f32), o.rstd = room({s.batch, 32}, DType::f32);
  o.p.weight = normal(key.fold("weight"), {s.out}), o.p.bias = normal(key.fold("bias"), {s.out});
  o.p.activation = Activation::silu;
  cuda::group_norm(o.x, 32, o.p, o.y, o.mean, o.rstd);
  return o;
}

void norm_forward(benchmark::State& state, const Sizes& s, bool channels_last) {
  const Timing t = rotate(
      [&](RandomKey key) {
        Normed o = normed(key, s);
        const int64_t positions = s.frames * s.height * s.width;
        o.x = o.x.view({s.batch, s.out, positions});
        o.y = channels_last ? room({s.batch, positions, s.out}).transpose(1, 2)
                            : o.y.view(o.x.shape());
        return o;
      },
      [](const Normed& o) { cuda::group_norm(o.x, 32, o.p, o.y, o.mean, o.rstd); });
  report(state, t, {0, 4 * s.elements(s.out)});
}

// x and dy are read, dx written.
void norm_backward(benchmark::State& state, const Sizes& s) {
  const Timing t = rotate([&](RandomKey key) { return normed(key, s); },
                          [](const Normed& o) {
                            NormGrads grads;
                            grads.dx = o.y;
                            cuda::group_norm_backward(o.x, 32, o.p, o.mean, o.rstd, o.dy, grads);
                          });
  report(state, t, {0, 6 * s.elements(s.out)});
}

struct Pair {
  Tensor x, y;
};

void upsample(benchmark::State& state, const Sizes& s) {
  Sizes twice = s;
  twice.height *= 2, twice.width *= 2;
  const Timing t = rotate(
      [&](RandomKey key) {
        return Pair{normal(key.fold("x"), s.volume(s.out)), room(twice.volume(s.out))};
      },
      [](const Pair& o) { cuda::resize(o.x, o.y, {}); });
  report(state, t, {0, 2 * (s.elements(s.out) + twice.elements(s.out))});
}

}  // namespace

void add_gpu_vae() {
  for (const GpuShape& g : gpu_shapes("vae")) {
    const Sizes s{g["batch"], g["frames"], g["height"], g["width"], g["in"], g["out"]};
    const auto add = [&](const char* what, auto body) {
      add_gpu_benchmark(std::string(what) + "/" + g.name(), body);
    };
    using State = benchmark::State;
    add("conv_forward", [=](State& st) { conv_forward(st, s, false); });
    add("conv_forward_channels_last", [=](State& st) { conv_forward(st, s, true); });
    add("conv_dx", [=](State& st) { conv_dx(st, s); });
    add("group_norm_silu", [=](State& st) { norm_forward(st, s, false); });
    add("group_norm_silu_channels_last", [=](State& st) { norm_forward(st, s, true); });
    add("group_norm_silu_backward", [=](State& st) { norm_backward(st, s); });
    add("upsample_nearest", [=](State& st) { upsample(st, s); });
  }
}

}  // namespace parlo::bench
