// Decoding and encoding one picture by the autoencoder of SD3 (random weights), against the FMA
// probe. peak_MB: the most that tensors held at once beyond the weights.
#include "bench/measure.h"
#include "models/autoencoder_kl.h"
#include "tensor/allocator.h"
#include "tensor/parallel.h"

namespace parlo::bench {
namespace {

// Multiply-adds of convolutions and attention, two operations each.
struct Count {
  double flops = 0;
  double side;  // now

  void conv(int64_t in, int64_t out, int64_t kernel) {
    flops += 2 * side * side * static_cast<double>(in * out * kernel * kernel);
  }
  void resnet(int64_t in, int64_t out) {
    conv(in, out, 3), conv(out, out, 3);
    if (in != out) conv(in, out, 1);
  }
  void middle(int64_t width) {
    resnet(width, width), resnet(width, width);
    conv(width, 4 * width, 1);
    flops += 4 * side * side * side * side * static_cast<double>(width);
  }
};

double decoder_flops(const AutoencoderKlConfig& c, int64_t side) {
  Count n{0, static_cast<double>(side / c.downscale())};
  int64_t width = c.block_out_channels.back();
  n.conv(c.latent_channels, width, 3);
  n.middle(width);
  for (int64_t i = c.levels(); i-- > 0;) {
    const int64_t out = c.block_out_channels[static_cast<size_t>(i)];
    for (int64_t j = 0; j <= c.layers_per_block; ++j) n.resnet(j ? out : width, out);
    width = out;
    if (i == 0) continue;
    n.side *= 2;
    n.conv(width, width, 3);
  }
  n.conv(width, c.out_channels, 3);
  return n.flops;
}

double encoder_flops(const AutoencoderKlConfig& c, int64_t side) {
  Count n{0, static_cast<double>(side)};
  int64_t width = c.block_out_channels[0];
  n.conv(c.in_channels, width, 3);
  for (int64_t i = 0; i < c.levels(); ++i) {
    const int64_t out = c.block_out_channels[static_cast<size_t>(i)];
    for (int64_t j = 0; j < c.layers_per_block; ++j) n.resnet(j ? out : width, out);
    width = out;
    if (i + 1 == c.levels()) continue;
    n.side /= 2;
    n.conv(width, width, 3);
  }
  n.middle(width);
  n.conv(width, 2 * c.latent_channels, 3);
  return n.flops;
}

template <class Op>
void measure(benchmark::State& state, double flops, const Op& op) {
  const auto threads = static_cast<int>(state.range(0));
  set_num_threads(threads);
  const NoGrad guard;
  const int64_t before = cpu_memory::stats().current_bytes;
  cpu_memory::reset_peak();
  op();
  const int64_t most = cpu_memory::stats().peak_bytes - before;
  contest(state, threads, flops, op);
  state.counters["peak_MB"] = static_cast<double>(most) * 1e-6;
}

AutoencoderKl& sd3() {
  static AutoencoderKl model(sd3_vae());
  static const bool ready = (model.params().initialise(RandomKey(1)), true);
  static_cast<void>(ready);
  return model;
}

void vae_decode(benchmark::State& state, int64_t side) {
  const AutoencoderKlConfig& c = sd3().config();
  const Var z(random({1, c.latent_channels, side / c.downscale(), side / c.downscale()}));
  measure(state, decoder_flops(c, side), [&] { sd3().decode(z); });
}

void vae_encode(benchmark::State& state, int64_t side) {
  const Var images(random({1, 3, side, side}));
  measure(state, encoder_flops(sd3().config(), side), [&] { sd3().encode(images); });
}

void on_threads(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->Arg(1)->Arg(2)->Iterations(2)->UseManualTime();
  b->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(vae_decode, 256x256, 256)->Apply(on_threads);
BENCHMARK_CAPTURE(vae_decode, 512x512, 512)->Apply(on_threads);
BENCHMARK_CAPTURE(vae_encode, 256x256, 256)->Apply(on_threads);

}  // namespace
}  // namespace parlo::bench
