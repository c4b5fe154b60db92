// Log-probabilities and entropies of a linear head (kernels/linear_logprob.h) on a GPU: a product
// makes a tile of logits in f32, a kernel reads it, the next product overwrites it. Floor: the
// product; the tile is 4 bytes a logit written and read once, in the L2 for most of it.
#include "kernels/cuda/linear_logprob.cuh"

#include <cfloat>

#include "kernels/cuda/index_check.h"

namespace parlo::cuda {
namespace {

constexpr int64_t kRows = 2048;  // 32 MiB of logits
constexpr int kN = kPack<float>;

// Of logits z seen so far: max, sum of exp(z - max), sum of (z - max) exp(z - max). Differences to
// the maximum, so that the entropy of large logits loses nothing. What __expf errs is relative to
// the largest term, below 2^-22.
struct LogitMoments {
  float max = -FLT_MAX, sum = 0, dot = 0;

  __device__ LogitMoments shifted_by(float top) const {
    const float factor = __expf(max - top);
    return {top, factor * sum, factor * (dot + (max - top) * sum)};
  }
  template <int N>
  __device__ void add(const float (&z)[N]) {
    float top = max;
#pragma unroll
    for (int k = 0; k < N; ++k) top = fmaxf(top, z[k]);
    *this = shifted_by(top);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      const float d = z[k] - top, e = __expf(d);
      sum += e;
      dot += e == 0 ? 0 : e * d;  // -infinity beyond the row's end
    }
  }
  __device__ LogitMoments over_warp() const {
    const LogitMoments m = shifted_by(warp_max(max));
    return {m.max, warp_sum(m.sum), warp_sum(m.dot)};
  }
  __device__ LogitMoments joined(const LogitMoments& other) const {
    const float top = fmaxf(max, other.max);
    const LogitMoments a = shifted_by(top), b = other.shifted_by(top);
    return {top, a.sum + b.sum, a.dot + b.dot};
  }
};

// What is known of a row between its tiles.
struct alignas(16) SeenRow {
  float max, sum, dot, target;
};

template <bool Packed>
__global__ void __launch_bounds__(kRowThreads)
    log_prob_kernel(LogProbTile t, const float* logits, SeenRow* seen, float* log_prob,
                    float* entropy, float* lse) {
  const int64_t r = row_of_thread<kWarp>();
  if (r >= t.rows) return;  // a whole warp
  const float* row = logits + r * t.distance;
  LogitMoments mine;
  for_batches<4>(
      thread_of_row<kWarp>() * kN, t.columns, kWarp * kN,
      [&](int64_t i) { return load_inside<Packed, kN>(row, i, t.columns, -INFINITY); },
      [&](const Pack<float, kN>& p, int64_t) { mine.add(p.v); });
  LogitMoments all = mine.over_warp();
  if (thread_of_row<kWarp>() != 0) return;
  const int64_t target = t.targets[r];
  float chosen = NAN;  // stays where the target is bad, which only a captured graph lets through
  if (t.first > 0) {
    const SeenRow before = seen[r];
    all = LogitMoments{before.max, before.sum, before.dot}.joined(all);
    chosen = before.target;
  }
  if (t.holds(target)) chosen = row[target - t.first];
  if (t.first + t.columns < t.V) {
    seen[r] = {all.max, all.sum, all.dot, chosen};
    return;
  }
  const float log_sum = logf(all.sum);
  const bool ignored = target == t.ignore_index;
  lse[r] = all.max + log_sum;
  log_prob[r] = ignored ? 0 : chosen - all.max - log_sum;
  entropy[r] = ignored ? 0 : log_sum - all.dot / all.sum;
}

}  // namespace

void linear_log_prob(const Tensor& x, const Tensor& w, const Tensor& targets,
                     const LinearLogProbArgs& args, const Tensor& log_prob, const Tensor& entropy,
                     const Tensor& lse) {
  const char* name = "linear_log_prob";
  check_log_prob_operands(name, x, w, targets, args);
  visit_dtype_gpu(x.dtype(), name, [](auto) {});
  const int64_t rows = x.dim(0), V = w.dim(0);
  check_log_prob_results(name, x, log_prob, entropy, lse);
  check_same_device(name, x, w, targets, log_prob, entropy, lse);
  if (const auto bad = find_bad_index(targets, V, args.ignore_index)) {
    throw Error(concat(name, ": target ", bad->value, " of row ", bad->position, " is outside [0, ",
                       V, ")"));
  }
  if (rows == 0) return;
  const LogProbHead head(x, w, args.temperature);
  const int64_t most = std::min(rows, kRows);
  const Tensor z = head.tile(most, DType::f32);
  const Tensor seen = Tensor::empty({most, 4}, DType::f32, x.device());
  for_logits_tiles(rows, kRows, V, kLogitColumns, [&](const LogitsTile& t) {
    head.logits(t, z);
    with_packing(t.columns % kN == 0, [&](auto packed) {
      launch(over_rows<kWarp>("log_prob", t.rows, x.device()), log_prob_kernel<packed.value>,
             log_prob_tile(head, t, targets, args.ignore_index), pointer<const float>(z),
             reinterpret_cast<SeenRow*>(pointer<float>(seen)), pointer<float>(log_prob) + t.row,
             pointer<float>(entropy) + t.row, pointer<float>(lse) + t.row);
    });
  });
}

}  // namespace parlo::cuda
