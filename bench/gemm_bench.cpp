// Products at the demo's shapes: rows = batch x tokens, N and K of its linears; forward (NT),
// gradient of the input (NN) and of the weight (TN); the fused linear in f32 and bf16.
#include "bench/measure.h"
#include "bench/peers.h"
#include "kernels/matmul.h"
#include "tensor/parallel.h"

namespace parlo::bench {
namespace {

enum Form { nt, nn, tn };

void run_gemm(benchmark::State& state, Form form, int64_t m, int64_t n, int64_t k) {
  const auto threads = static_cast<int>(state.range(0));
  set_num_threads(threads);
  const bool trans_a = form == tn, trans_b = form == nt;
  const Tensor a = random(trans_a ? Shape{k, m} : Shape{m, k});
  const Tensor b = random(trans_b ? Shape{n, k} : Shape{k, n}), c = Tensor::empty({m, n});
  const PeerGemm peer{a.data<float>(), trans_a, b.data<float>(), trans_b, c.data<float>(), m, n, k};
  const double flops = 2.0 * static_cast<double>(m * n * k);
  Best eigen, openblas;
  contest(
      state, threads, flops, [&] { cpu::matmul(a, trans_a, b, trans_b, c); },
      [&] {
        if (threads == 1) eigen.run([&] { eigen_gemm(peer); });
        if (has_openblas()) openblas.run([&] { openblas_gemm(peer, threads); });
      });
  set_rate(state, "Eigen", flops, eigen);
  set_rate(state, "OpenBLAS", flops, openblas);
}

// Bias, GELU, residual and LoRA of rank 8 in one call.
void run_linear(benchmark::State& state, DType weights, int64_t m, int64_t n, int64_t k) {
  const auto threads = static_cast<int>(state.range(0));
  set_num_threads(threads);
  constexpr int64_t kRank = 8;
  const Tensor x = random({m, k}), w = random({n, k}).to(weights), y = Tensor::empty({m, n});
  LowRank low{random({kRank, k}), random({n, kRank}), 1.0, Tensor::empty({m, kRank})};
  LinearArgs args;
  args.bias = random({n}), args.residual = random({m, n});
  args.activation = Activation::gelu_tanh, args.low_rank = &low;
  contest(state, threads, 2.0 * static_cast<double>(m * (n * k + kRank * (n + k))),
          [&] { cpu::linear(x, w, y, args); });
}

void on_threads(benchmark::internal::Benchmark* b) {
  b->ArgName("threads")->Arg(1)->Arg(2)->Iterations(kTurns)->UseManualTime();
  b->Unit(benchmark::kMicrosecond);
}

// The demo's: passes of 32 samples, 64 image and 16 text tokens, width 96.
BENCHMARK_CAPTURE(run_gemm, 2048x96x96_NT_demo, nt, 2048, 96, 96)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 2048x384x96_NT_demo, nt, 2048, 384, 96)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 2048x96x384_NT_demo, nt, 2048, 96, 384)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 512x96x96_NT_demo, nt, 512, 96, 96)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 2048x96x96_NN_demo, nn, 2048, 96, 96)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 2048x96x384_NN_demo, nn, 2048, 96, 384)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 2048x384x96_NN_demo, nn, 2048, 384, 96)->Apply(on_threads);
// Other shapes.
BENCHMARK_CAPTURE(run_gemm, 64x128x128_NT, nt, 64, 128, 128)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 1920x128x128_NT, nt, 1920, 128, 128)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 1920x384x128_NT, nt, 1920, 384, 128)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 1920x512x128_NT, nt, 1920, 512, 128)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 1920x128x512_NT, nt, 1920, 128, 512)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 7680x128x128_NT, nt, 7680, 128, 128)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 7680x512x128_NT, nt, 7680, 512, 128)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 2000x512x512_NT, nt, 2000, 512, 512)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 1920x128x384_NN, nn, 1920, 128, 384)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 1920x128x512_NN, nn, 1920, 128, 512)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 512x128x7680_TN, tn, 512, 128, 7680)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 128x128x7680_TN, tn, 128, 128, 7680)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 7680x8x128_NT_lora_down, nt, 7680, 8, 128)->Apply(on_threads);
BENCHMARK_CAPTURE(run_gemm, 7680x128x8_NT_lora_up, nt, 7680, 128, 8)->Apply(on_threads);
BENCHMARK_CAPTURE(run_linear, 2048x384x96_f32_gelu_lora8_demo, DType::f32, 2048, 384, 96)
    ->Apply(on_threads);
BENCHMARK_CAPTURE(run_linear, 1920x512x128_f32_gelu_lora8, DType::f32, 1920, 512, 128)
    ->Apply(on_threads);
BENCHMARK_CAPTURE(run_linear, 1920x512x128_bf16_gelu_lora8, DType::bf16, 1920, 512, 128)
    ->Apply(on_threads);
BENCHMARK_CAPTURE(run_linear, 2000x512x512_bf16_gelu_lora8, DType::bf16, 2000, 512, 512)
    ->Apply(on_threads);

}  // namespace
}  // namespace parlo::bench
