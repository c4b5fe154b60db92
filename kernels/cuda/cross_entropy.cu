// Cross-entropy of logits (kernels/reduce.h) on a GPU. Floor: the logits once forward, the logits
// and dlogits once backward. losses and lse are f32, whatever the logits.
#include "kernels/cuda/index_check.h"
#include "kernels/cuda/rows.cuh"
#include "kernels/reduce.h"

namespace parlo::cuda {
namespace {

// One pass: the maximum and the sum of exponentials grow together.
template <int Threads, bool Packed, class T>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_kernel(const T* logits, const int64_t* targets, int64_t rows, int64_t C,
                         int64_t ignore_index, float* losses, float* lse) {
  constexpr int N = kPack<T>;
  const int64_t r = row_of_thread<Threads>();
  if (r >= rows) return;  // a whole warp, or nobody
  const T* row = logits + r * C;
  ExpSum seen;
  for_batches<4>(
      thread_of_row<Threads>() * N, C, Threads * N,
      [&](int64_t i) { return load_inside<Packed, N>(row, i, C, -INFINITY); },
      [&](const Pack<T, N>& p, int64_t) {
        float x[N];
        unpack(x, p);
        seen.add(x);
      });
  const ExpSum all = seen.template over_row<Threads>();
  if (thread_of_row<Threads>() != 0) return;
  const float log_sum = logf(all.sum);
  const int64_t target = targets[r];
  lse[r] = all.max + log_sum;
  if (target == ignore_index) {
    losses[r] = 0;
  } else {  // outside [0, C) only in a captured graph
    losses[r] = target >= 0 && target < C ? (all.max - to_f32(row[target])) + log_sum : NAN;
  }
}

// exp(x - lse) is at most 1, where __expf is as good as its absolute error, below 2^-22.
template <int Threads, bool Packed, class T>
__global__ void __launch_bounds__(kRowThreads)
    cross_entropy_backward_kernel(const T* logits, const int64_t* targets, const float* lse,
                                  const float* dlosses, int64_t rows, int64_t C,
                                  int64_t ignore_index, T* dlogits) {
  constexpr int N = kPack<T>;
  const int64_t r = row_of_thread<Threads>();
  if (r >= rows) return;
  const int64_t target = targets[r];
  const bool ignored = target == ignore_index;
  const float shift = lse[r], gradient = target >= 0 && target < C ? dlosses[r] : NAN;
  const T* row = logits + r * C;
  T* to = dlogits + r * C;
  for_batches<2>(
      thread_of_row<Threads>() * N, C, Threads * N,
      [&](int64_t i) { return ignored ? Pack<T, N>{} : load_inside<Packed, N>(row, i, C); },
      [&](const Pack<T, N>& p, int64_t i) {
        float x[N];
        unpack(x, p);
#pragma unroll
        for (int k = 0; k < N; ++k) {
          x[k] = ignored ? 0 : __expf(x[k] - shift) * gradient;
          if (i + k == target) x[k] -= gradient;
        }
        store_row<Packed>(to, i, C, x);
      });
}

// A warp reads 2048 logits in the time a block of 256 takes to meet.
template <class Run>
void with_row_threads(int64_t C, bool packed, Run run) {
  with_packing(packed, [&](auto p) {
    C <= 2048 ? run.template operator()<kWarp, p.value>()
              : run.template operator()<kRowThreads, p.value>();
  });
}

int64_t check_logits(const char* name, const Tensor& logits, const Tensor& targets) {
  const int64_t C = columns_of(name, logits);
  CHECK(C >= 1, name, ": logits of shape ", logits.shape(), " have no classes");
  check_operand(name, "logits", logits, logits.dtype(), logits.numel());
  check_operand(name, "targets", targets, DType::i64, logits.numel() / C);
  return C;
}

}  // namespace

void cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& losses,
                   const Tensor& lse, int64_t ignore_index) {
  const char* name = "cross_entropy";
  const int64_t C = check_logits(name, logits, targets), rows = logits.numel() / C;
  check_output(name, "losses", losses, DType::f32, rows);
  check_output(name, "lse", lse, DType::f32, rows);
  check_same_device(name, logits, targets, losses, lse);
  if (const auto bad = find_bad_index(targets, C, ignore_index)) {
    throw Error(concat(name, ": target ", bad->value, " of row ", bad->position, " is outside [0, ",
                       C, ")"));
  }
  visit_dtype_gpu(logits.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const T* from = pointer<const T>(logits);
    with_row_threads(C, is_packed(C, from), [&]<int Threads, bool Packed>() {
      launch(over_rows<Threads>(name, rows, logits.device()),
             cross_entropy_kernel<Threads, Packed, T>, from, pointer<const int64_t>(targets), rows,
             C, ignore_index, pointer<float>(losses), pointer<float>(lse));
    });
  });
}

// The forward checked the targets; here a bad one gives NaN, without waiting for the device.
void cross_entropy_backward(const Tensor& logits, const Tensor& targets, const Tensor& lse,
                            const Tensor& dlosses, const Tensor& dlogits, int64_t ignore_index) {
  const char* name = "cross_entropy_backward";
  const int64_t C = check_logits(name, logits, targets), rows = logits.numel() / C;
  check_operand(name, "lse", lse, DType::f32, rows);
  check_operand(name, "dlosses", dlosses, DType::f32, rows);
  check_output(name, "dlogits", dlogits, logits.dtype(), logits.numel());
  check_same_device(name, logits, targets, lse, dlosses, dlogits);
  visit_dtype_gpu(logits.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const T* from = pointer<const T>(logits);
    T* to = pointer<T>(dlogits);
    with_row_threads(C, is_packed(C, from, to), [&]<int Threads, bool Packed>() {
      launch(over_rows<Threads>(name, rows, logits.device()),
             cross_entropy_backward_kernel<Threads, Packed, T>, from,
             pointer<const int64_t>(targets), pointer<const float>(lse),
             pointer<const float>(dlosses), rows, C, ignore_index, to);
    });
  });
}

}  // namespace parlo::cuda
