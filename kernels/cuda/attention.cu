// Attention (kernels/attention.h) on a GPU: checks, operands, and the first pass of the backward.
#include "kernels/attention.h"

#include "kernels/cuda/attention.cuh"

namespace parlo::cuda {
namespace {

constexpr int kMaxHeadSize = 256;
constexpr int kDeltaThreads = 256;

// delta = sum of dout * out of each query row, lse2 = lse / ln 2. A warp a row, 16 bytes a lane.
// Floor: the bytes of out and dout once.
template <class T>
__global__ void __launch_bounds__(kDeltaThreads)
    attention_delta_kernel(AttentionBackwardOperands<T> f, int64_t rows) {
  const int lane = threadIdx.x % kWarp;
  int64_t row = static_cast<int64_t>(blockIdx.x) * (kDeltaThreads / kWarp) + threadIdx.x / kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * (kDeltaThreads / kWarp);
  for (; row < rows; row += step) {  // rows [B, H, Tq]
    const int64_t other = row / f.s.tq;
    const int i = static_cast<int>(row % f.s.tq), head = static_cast<int>(other % f.s.heads);
    const int b = static_cast<int>(other / f.s.heads);
    const T *out = f.out.row(b, head, i), *dout = f.dout.row(b, head, i);
    float sum = 0;
    if (f.out.packed && f.dout.packed) {
      constexpr int N = kPack<T>;
      for (int c = lane * N; c < f.s.d; c += kWarp * N) {
        const auto x = load_pack<N>(out + c), dx = load_pack<N>(dout + c);
#pragma unroll
        for (int k = 0; k < N; ++k) sum = fmaf(to_f32(x.v[k]), to_f32(dx.v[k]), sum);
      }
    } else {
      for (int c = lane; c < f.s.d; c += kWarp) sum = fmaf(to_f32(out[c]), to_f32(dout[c]), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0) {
      f.delta[row] = sum;
      f.lse2[row] = f.lse[row] * kLog2e;
    }
  }
}

AttentionSizes sizes_of(const char* function, const AttentionShape& s, const AttentionArgs& args) {
  constexpr int64_t kMost = (int64_t{1} << 31) - 1024;  // sums of a tile and an index fit an int
  CHECK(s.d <= kMaxHeadSize, function, ": heads of ", s.d, ", expected at most ", kMaxHeadSize,
        " on a GPU");
  CHECK(s.tq + s.tk < kMost && s.heads < kMost, function, ": ", s.tq, " queries, ", s.tk,
        " keys and ", s.heads, " heads, expected below 2^31");
  const auto n = [](int64_t x) { return static_cast<int>(x); };
  return {n(s.tq),
          n(s.tk),
          n(s.heads),
          n(s.kv_heads),
          n(s.d),
          s.causal,
          static_cast<float>(args.scale),
          s.key_lengths,
          s.key_mask};
}

// Every tensor of every operand lies where the first does.
template <class... Rest>
void check_one_device(const char* function, const Tokens& first, const Rest&... rest) {
  (check_same_device(function, first.first, rest.first, rest.second), ...);
}

}  // namespace

void attention(const Tokens& q, const Tokens& k, const Tokens& v, const Tokens& out,
               const Tensor& lse, const AttentionArgs& args) {
  const char* name = "attention";
  const AttentionShape s = check_attention(name, q, k, v, out, lse, DType::f32, args);
  check_one_device(name, q, q, k, v, out);
  check_same_device(name, q.first, lse, args.key_lengths, args.key_mask);
  const AttentionSizes sizes = sizes_of(name, s, args);
  visit_dtype_gpu(q.first.dtype(), name, [&](auto type) {
    using T = decltype(type);
    if (s.batch * s.heads * s.tq == 0) return;
    attention_forward({sizes, token_rows<const T>(q), token_rows<const T>(k),
                       token_rows<const T>(v), token_rows<T>(out), pointer<float>(lse)},
                      s.batch, q.first.device());
  });
}

void attention_backward(const Tokens& q, const Tokens& k, const Tokens& v, const Tokens& out,
                        const Tensor& lse, const Tokens& dout, const Tokens& dq, const Tokens& dk,
                        const Tokens& dv, const AttentionArgs& args) {
  const char* name = "attention_backward";
  const AttentionShape s = check_attention(name, q, k, v, out, lse, DType::f32, args);
  check_attention_gradients(name, s, q, k, dout, dq, dk, dv);
  check_one_device(name, q, q, k, v, out, dout, dq, dk, dv);
  check_same_device(name, q.first, lse, args.key_lengths, args.key_mask);
  const AttentionSizes sizes = sizes_of(name, s, args);
  visit_dtype_gpu(q.first.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const int64_t rows = s.batch * s.heads * s.tq;
    const Tensor statistics = Tensor::empty({2, rows}, DType::f32, q.first.device());
    const AttentionBackwardOperands<T> f{sizes,
                                         token_rows<const T>(q),
                                         token_rows<const T>(k),
                                         token_rows<const T>(v),
                                         token_rows<const T>(out),
                                         token_rows<const T>(dout),
                                         token_rows<T>(dq),
                                         token_rows<T>(dk),
                                         token_rows<T>(dv),
                                         pointer<float>(lse),
                                         pointer<float>(statistics),
                                         pointer<float>(statistics) + rows};
    launch({"attention_delta", blocks_for(rows, kDeltaThreads / kWarp), kDeltaThreads,
            q.first.device()},
           attention_delta_kernel<T>, f, rows);
    attention_gradients(f, s.batch, q.first.device());
  });
}

}  // namespace parlo::cuda
