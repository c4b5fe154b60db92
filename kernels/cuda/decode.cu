// Decode attention (kernels/decode.h) on a GPU: checks, the merge of the splits, and the append.
#include "kernels/decode.h"

#include "kernels/cuda/decode.cuh"
#include "kernels/cuda/rows.cuh"
#include "kernels/decode_checks.h"

namespace parlo::cuda {
namespace {

template <class T>
DecodeRowsOf<T> decode_rows(const Tensor& x) {
  return {pointer<T>(x), x.strides()[0], x.strides()[1], x.strides()[2], packed_rows<T>(x)};
}

constexpr int64_t kMaxHeadSize = 256;
constexpr int kMergeThreads = 256;
constexpr int kAppendThreads = 256;

// A warp a row (b, i, h): the splits that have keys, in order. Floor: the bytes of their sums, for
// a row alone 1/256 of those of its keys and values in bf16, 1/16 for 16 rows that share them.
template <class T>
__global__ void __launch_bounds__(kMergeThreads)
    decode_merge_kernel(const DecodeOperands<T> f, DecodeRowsOf<T> out) {
  const int lane = threadIdx.x % kWarp;
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kMergeThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= f.rows) return;
  const int head = static_cast<int>(row % f.heads);
  const int64_t token = row / f.heads;
  const int i = static_cast<int>(token % f.tq), b = static_cast<int>(token / f.tq);
  T* const to = out.head(b, head) + i * out.t;
  const int64_t length = f.own.lengths[b];
  if (length < 0 || length + f.tq > f.own.room) {  // idle, or no room
    for (int c = lane; c < f.d; c += kWarp) to[c] = from_f32<T>(length < 0 ? 0.0f : NAN);
    return;
  }
  const auto splits = [](int keys) { return (keys + kSplitKeys - 1) / kSplitKeys; };
  const int shared = f.prefix.units == 0 ? 0 : splits(f.prefix.seen(b / f.prefix.group, 0));
  const int all = shared + splits(f.own.seen(b, i));
  const auto at = [&](int s) {
    return (s < shared ? s : s - shared + f.prefix.splits) * f.rows + row;
  };
  float top = -INFINITY;
  for (int s = lane; s < all; s += kWarp) top = fmaxf(top, f.parts[at(s)].top);
  top = warp_max(top);
  const float base = top == -INFINITY ? 0.0f : top;
  for (int c = lane * 4; c < f.d; c += kWarp * 4) {
    float sum = 0, total[4] = {};
    for (int s = 0; s < all; ++s) {
      const SoftmaxPart part = f.parts[at(s)];
      const float share = ptx::ex2(part.top - base);
      const Pack<float, 4> x = load_pack<4>(f.acc + at(s) * f.pitch + c);
      sum = fmaf(share, part.sum, sum);
#pragma unroll
      for (int k = 0; k < 4; ++k) total[k] = fmaf(share, x.v[k], total[k]);
    }
    const float factor = 1 / sum;
#pragma unroll
    for (float& x : total) x *= factor;
    if (out.packed) {
      store_row<true>(to, c, f.d, total);
    } else {
      store_row<false>(to, c, f.d, total);
    }
  }
}

template <class T>
struct Append {
  int64_t tokens, tq, heads, d, room;  // tokens: B Tq
  const int64_t* lengths;
  DecodeRowsOf<const T> from[2];
  DecodeRowsOf<T> to[2];
};

template <int N, class T>
__global__ void __launch_bounds__(kAppendThreads) cache_append_kernel(const Append<T> a) {
  const int64_t packs = a.d / N, n = a.tokens * a.heads * packs;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kAppendThreads + threadIdx.x;
  if (i >= n) return;
  const int64_t c = i % packs * N, other = i / packs, token = other / a.heads;
  const int head = static_cast<int>(other % a.heads), b = static_cast<int>(token / a.tq);
  const int64_t at = token % a.tq, length = a.lengths[b];
  if (length < 0 || length + at >= a.room) return;
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const T* from = a.from[k].head(b, head) + at * a.from[k].t + c;
    store_pack<N>(a.to[k].head(b, head) + (length + at) * a.to[k].t + c, load_pack<N>(from));
  }
}

template <class T>
DecodeKeys<T> keys_of(const Tensor& k, const Tensor& v, const Tensor& lengths, int64_t batch,
                      bool own) {
  DecodeKeys<T> keys{};
  keys.own = own, keys.group = 1;
  if (!k) return keys;
  keys.k = decode_rows<const T>(k), keys.v = decode_rows<const T>(v);
  keys.lengths = pointer<const int64_t>(lengths);
  keys.room = static_cast<int>(k.dim(1)), keys.units = static_cast<int>(k.dim(0));
  keys.group = static_cast<int>(batch / k.dim(0));
  keys.splits = static_cast<int>(ceil_div(keys.room, kSplitKeys));
  return keys;
}

void fill(const DecodeOperands<float>& f, Device device) {
  decode_by_fma(f, device);
}
void fill(const DecodeOperands<bf16>& f, Device device) {
  const bool packed = f.q.packed && f.own.k.packed && f.own.v.packed &&
                      (f.prefix.units == 0 || (f.prefix.k.packed && f.prefix.v.packed));
  packed&& f.d <= 128 ? decode_by_mma(f, device) : decode_by_fma(f, device);
}

}  // namespace

void cache_append(const Tensor& k, const Tensor& v, const KvCache& cache) {
  const DecodeShape s = check_append(k, v, cache);
  check_same_device("cache_append", k, v, cache.k, cache.v, cache.lengths);
  visit_dtype_gpu(k.dtype(), "cache_append", [&](auto type) {
    using T = decltype(type);
    const Append<T> a{s.batch * s.tq,
                      s.tq,
                      s.heads,
                      s.d,
                      s.room,
                      pointer<const int64_t>(cache.lengths),
                      {decode_rows<const T>(k), decode_rows<const T>(v)},
                      {decode_rows<T>(cache.k), decode_rows<T>(cache.v)}};
    const bool packed = a.from[0].packed && a.from[1].packed && a.to[0].packed && a.to[1].packed;
    with_packing(packed, [&](auto p) {
      constexpr int N = p.value ? kPack<T> : 1;
      const int64_t blocks = ceil_div(a.tokens * a.heads * (a.d / N), kAppendThreads);
      CHECK(blocks < int64_t{1} << 31, "cache_append: ", k.shape(), " is too large for one call");
      launch({"cache_append", static_cast<unsigned>(blocks), kAppendThreads, k.device()},
             cache_append_kernel<N, T>, a);
    });
  });
}

void decode_attention(const Tensor& q, const KvCache& cache, double scale, const Tensor& out) {
  const char* name = "decode_attention";
  const DecodeShape s = check_decode(q, cache, out);
  check_same_device(name, q, out, cache.k, cache.v, cache.lengths, cache.prefix_k, cache.prefix_v,
                    cache.prefix_lengths);
  constexpr int64_t kMost = (int64_t{1} << 31) - 1024;  // of what the kernels keep in an int
  CHECK(s.d <= kMaxHeadSize, name, ": heads of ", s.d, ", expected at most ", kMaxHeadSize,
        " on a GPU");
  CHECK(s.room + s.tq < kMost && s.prefix_room < kMost && s.batch * s.tq * s.heads < kMost, name,
        ": q ", q.shape(), " and k ", cache.k.shape(), ", expected sizes below 2^31");
  visit_dtype_gpu(q.dtype(), name, [&](auto type) {
    using T = decltype(type);
    DecodeOperands<T> f{};
    f.rows = s.batch * s.tq * s.heads;
    if (f.rows == 0) return;
    f.tq = static_cast<int>(s.tq), f.heads = static_cast<int>(s.heads);
    f.kv_heads = static_cast<int>(s.kv_heads), f.d = static_cast<int>(s.d);
    f.scale2 = static_cast<float>(scale) * kLog2e;
    f.q = decode_rows<const T>(q);
    f.prefix = keys_of<T>(cache.prefix_k, cache.prefix_v, cache.prefix_lengths, s.batch, false);
    f.own = keys_of<T>(cache.k, cache.v, cache.lengths, s.batch, true);
    const int64_t pitch = ceil_div(s.d, 4) * 4;
    const int64_t parts = (f.prefix.splits + f.own.splits) * f.rows;
    const Tensor acc = Tensor::empty({parts, pitch}, DType::f32, q.device());
    const Tensor softmax = Tensor::empty({parts, 2}, DType::f32, q.device());
    f.acc = pointer<float>(acc), f.pitch = static_cast<int>(pitch);
    f.parts = reinterpret_cast<SoftmaxPart*>(pointer<float>(softmax));
    fill(f, q.device());
    launch({"decode_merge", static_cast<unsigned>(ceil_div(f.rows, kMergeThreads / kWarp)),
            kMergeThreads, q.device()},
           decode_merge_kernel<T>, f, decode_rows<T>(out));
  });
}

}  // namespace parlo::cuda
