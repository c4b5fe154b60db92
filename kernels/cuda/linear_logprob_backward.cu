// Gradients of linear_log_prob (kernels/linear_logprob.h) on a GPU: a tile of logits is made again,
// becomes its gradient, and goes into products with w and x. Floor: the products, two or three.
#include "kernels/cuda/linear_logprob.cuh"

namespace parlo::cuda {
namespace {

constexpr int64_t kRows = 1024;  // 16 MiB of logits, and 8 of their gradients in bf16
constexpr int kN = kPack<float>;

// dz may be the logits' memory. exp(z - lse) is at most 1, where __expf is as good as its absolute
// error.
template <bool Packed, class T>
__global__ void __launch_bounds__(kRowThreads)
    log_prob_backward_kernel(LogProbTile t, const float* logits, const float* entropy,
                             const float* lse, const float* d_log_prob, const float* d_entropy,
                             T* dz) {
  const int64_t r = row_of_thread<kWarp>();
  if (r >= t.rows) return;
  const int64_t target = t.targets[r];
  const bool ignored = target == t.ignore_index;
  const float shift = lse[r], slope = d_entropy ? -d_entropy[r] : 0;
  float gradient = d_log_prob ? d_log_prob[r] : 0;
  if (target < 0 || target >= t.V) gradient = NAN;
  const float constant = slope * entropy[r] - gradient;
  const float* row = logits + r * t.distance;
  T* to = dz + r * t.distance;
  for_batches<2>(
      thread_of_row<kWarp>() * kN, t.columns, kWarp * kN,
      [&](int64_t i) { return load_inside<Packed, kN>(row, i, t.columns); },
      [&](const Pack<float, kN>& p, int64_t i) {
        float x[kN];
#pragma unroll
        for (int k = 0; k < kN; ++k) {
          const float log_p = p.v[k] - shift, q = __expf(log_p);
          x[k] = q == 0 ? 0 : q * (slope * log_p + constant);
          if (t.first + i + k == target) x[k] += gradient;
          if (ignored) x[k] = 0;
        }
        store_row<Packed>(to, i, t.columns, x);
      });
}

// A tensor of T rows from the tile's first on; null where there is none.
const float* rows_from(const Tensor& t, int64_t row) {
  return t.defined() ? pointer<const float>(t) + row : nullptr;
}

template <class T>
void backward(const LogProbHead& head, const Tensor& targets, const LinearLogProbArgs& args,
              const Tensor& entropy, const Tensor& lse, const LinearLogProbGrads& grads) {
  const int64_t rows = head.x.dim(0), V = head.w.dim(0), K = head.K();
  const int64_t most = std::min(rows, kRows);
  const Tensor z = head.tile(most, DType::f32);
  const Tensor dz = std::is_same_v<T, float> ? z : head.tile(most, DType::bf16);
  Tensor sum;  // of dx in f32, where dx is rounded
  if (grads.dx && grads.dx.dtype() != DType::f32) {
    sum = Tensor::empty({most, K}, DType::f32, z.device());
  }
  for_logits_tiles(rows, kRows, V, kLogitColumns, [&](const LogitsTile& t) {
    head.logits(t, z);
    with_packing(t.columns % kN == 0, [&](auto packed) {
      launch(over_rows<kWarp>("log_prob_backward", t.rows, z.device()),
             log_prob_backward_kernel<packed.value, T>,
             log_prob_tile(head, t, targets, args.ignore_index), pointer<const float>(z),
             rows_from(entropy, t.row), rows_from(lse, t.row), rows_from(grads.d_log_prob, t.row),
             rows_from(grads.d_entropy, t.row), pointer<T>(dz));
    });
    if (grads.dx) {
      head.add_dx(t, dz, sum ? pointer<float>(sum) : pointer<float>(grads.dx) + t.row * K);
      if (sum && t.first + t.columns == V) {
        grads.dx.slice(0, t.row, t.row + t.rows).copy_from(sum.slice(0, 0, t.rows));
      }
    }
    if (grads.dw) head.add_dw(t, dz, pointer<float>(grads.dw));
  });
}

}  // namespace

// The forward checked the targets; here a bad one gives NaN, without waiting for the device.
void linear_log_prob_backward(const Tensor& x, const Tensor& w, const Tensor& targets,
                              const LinearLogProbArgs& args, const Tensor& entropy,
                              const Tensor& lse, const LinearLogProbGrads& grads) {
  const char* name = "linear_log_prob_backward";
  check_log_prob_operands(name, x, w, targets, args);
  check_operand(name, "entropy", entropy, DType::f32, x.dim(0));
  check_operand(name, "lse", lse, DType::f32, x.dim(0));
  check_log_prob_grads(name, x, w, grads);
  check_same_device(name, x, w, targets, entropy, lse, grads.d_log_prob, grads.d_entropy, grads.dx,
                    grads.dw);
  visit_dtype_gpu(x.dtype(), name, [](auto) {});
  if (x.dim(0) == 0 && grads.dw) grads.dw.fill(0);
  if (x.dim(0) == 0 || (!grads.dx && !grads.dw)) return;
  const LogProbHead head(x, w, args.temperature);
  visit_dtype_gpu(w.dtype(), name, [&](auto type) {
    backward<decltype(type)>(head, targets, args, entropy, lse, grads);
  });
}

}  // namespace parlo::cuda
