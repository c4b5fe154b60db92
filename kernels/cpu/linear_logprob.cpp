// Log-probabilities and entropies of a linear head, a tile of logits at a time. The products are
// those of linear; sums over a tile's columns are shifted by their maximum and joined in f64.
#include "kernels/linear_logprob.h"

#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/gemm.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/reduce_isa.h"
#include "kernels/linear_logprob_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// 2 MB of f32 logits; so many rows use a part of w that packing it for the product is cheap.
constexpr int64_t kRows = 512, kColumns = 1024;

// Of logits z seen so far: max, sum of exp(z - max), sum of (z - max) exp(z - max). Differences to
// the maximum, so that the entropy of large logits loses nothing.
struct Moments {
  double max = std::numeric_limits<double>::lowest(), sum = 0, dot = 0;

  Moments shifted_by(double top) const {
    const double factor = std::exp(max - top);
    return {top, factor * sum, factor * (dot + (max - top) * sum)};
  }
  void join(const Moments& other) {
    const double top = std::max(max, other.max);
    const Moments a = shifted_by(top), b = other.shifted_by(top);
    *this = {top, a.sum + b.sum, a.dot + b.dot};
  }
};

Moments moments(const double* z, int64_t n) {
  Moments m;
  for (int64_t c = 0; c < n; ++c) m.max = std::max(m.max, z[c]);
  for (int64_t c = 0; c < n; ++c) {
    const double d = z[c] - m.max, e = std::exp(d);
    m.sum += e;
    if (e > 0) m.dot += d * e;
  }
  return m;
}
Moments moments(const float* z, int64_t n) {
  const ReduceIsa& isa = PARLO_ISA_TABLE(reduce);
  float max = 0, sum = 0;
  isa.max_and_exp_sum(z, n, &max, &sum);
  return {max, sum, isa.exp_moment(z, n, max)};
}

void log_prob_gradient(double* z, int64_t n, double lse, double entropy, double d_log_prob,
                       double d_entropy) {
  for (int64_t c = 0; c < n; ++c) {
    const double log_p = z[c] - lse, p = std::exp(log_p);
    z[c] = p == 0 ? 0 : -p * (d_log_prob + d_entropy * (log_p + entropy));
  }
}
void log_prob_gradient(float* z, int64_t n, float lse, float entropy, float d_log_prob,
                       float d_entropy) {
  PARLO_ISA_TABLE(reduce).log_prob_gradient(z, n, lse, entropy, d_log_prob, d_entropy, z);
}

// out [rows, columns] = x w' / temperature.
template <class T>
void make_logits(const Tensor& x, const Tensor& w, const LogitsTile& tile, double temperature,
                 T* out) {
  const int64_t k = x.dim(1);
  Gemm<T> g;
  g.m = tile.rows, g.n = tile.columns, g.k = k;
  g.a = x.data<T>() + tile.row * k, g.a_row = k;
  g.b_row = 1, g.b_col = k;
  g.c = out, g.c_row = tile.columns;
  g.alpha = static_cast<T>(1 / temperature);
  if constexpr (std::is_same_v<T, float>) {
    if (w.dtype() == DType::bf16) return gemm_bf16(g, w.data<bf16_t>() + tile.first * k);
  }
  g.b = w.data<T>() + tile.first * k;
  gemm(g);
}

void check_targets(const char* name, const Tensor& targets, int64_t V, int64_t ignore_index) {
  const auto ids = targets.span<int64_t>();
  for (size_t r = 0; r < ids.size(); ++r) {
    CHECK(ids[r] == ignore_index || (ids[r] >= 0 && ids[r] < V), name, ": target ", ids[r],
          " of row ", r, " is outside [0, ", V, ")");
  }
}

// What the target's column holds in a row of a tile, if it is among the columns.
template <class T>
T* chosen(T* z, const LogitsTile& tile, int64_t target) {
  const int64_t column = target - tile.first;
  return column >= 0 && column < tile.columns ? z + column : nullptr;
}

struct SeenRow {
  Moments all;
  double target = 0;
};

template <class T>
void forward(const Tensor& x, const Tensor& w, const int64_t* targets,
             const LinearLogProbArgs& args, T* log_prob, T* entropy, T* lse) {
  const int64_t V = w.dim(0);
  const Tensor logits = Tensor::empty({kRows, kColumns}, x.dtype());
  std::vector<SeenRow> seen;
  for_logits_tiles(x.dim(0), kRows, V, kColumns, [&](const LogitsTile& tile) {
    if (tile.first == 0) seen.assign(static_cast<size_t>(tile.rows), {});
    make_logits(x, w, tile, args.temperature, logits.data<T>());
    const bool last = tile.first + tile.columns == V;
    parallel_for(tile.rows, row_grain(tile.columns), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* z = logits.data<T>() + i * tile.columns;
        const int64_t r = tile.row + i, target = targets[r];
        SeenRow& row = seen[static_cast<size_t>(i)];
        row.all.join(moments(z, tile.columns));
        if (const T* at = chosen(z, tile, target)) row.target = *at;
        if (!last) continue;
        const Moments& m = row.all;
        const double log_sum = std::log(m.sum);
        const bool ignored = target == args.ignore_index;
        lse[r] = static_cast<T>(m.max + log_sum);
        log_prob[r] = ignored ? T{0} : static_cast<T>(row.target - m.max - log_sum);
        entropy[r] = ignored ? T{0} : static_cast<T>(log_sum - m.dot / m.sum);
      }
    });
  });
}

template <class T>
struct Backward {
  const Tensor &x, &w;
  const int64_t* targets;
  const LinearLogProbArgs& args;
  const T *entropy, *lse, *d_log_prob, *d_entropy;
  Tensor dx, dw;

  // Logits become their gradients.
  void differentiate(const LogitsTile& tile, T* logits) const {
    parallel_for(tile.rows, row_grain(tile.columns), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        T* z = logits + i * tile.columns;
        const int64_t r = tile.row + i, target = targets[r];
        if (target == args.ignore_index) {
          std::fill(z, z + tile.columns, T{0});
          continue;
        }
        const T dl = d_log_prob ? d_log_prob[r] : T{0}, de = d_entropy ? d_entropy[r] : T{0};
        log_prob_gradient(z, tile.columns, lse[r], entropy[r], dl, de);
        if (T* at = chosen(z, tile, target)) *at += dl;
      }
    });
  }

  void add_dx(const LogitsTile& tile, const T* dz) const {
    const int64_t k = w.dim(1);
    // The product with rows of bf16 as its right side does not exist.
    const Tensor part =
        w.slice(0, tile.first, tile.first + tile.columns).to(x.dtype()).contiguous();
    Gemm<T> g;
    g.m = tile.rows, g.n = k, g.k = tile.columns;
    g.a = dz, g.a_row = tile.columns;
    g.b = part.data<T>(), g.b_row = k;
    g.c = dx.data<T>() + tile.row * k, g.c_row = k;
    g.alpha = static_cast<T>(1 / args.temperature), g.beta = tile.first == 0 ? T{0} : T{1};
    gemm(g);
  }

  void add_dw(const LogitsTile& tile, const T* dz) const {
    const int64_t k = w.dim(1);
    Gemm<T> g;
    g.m = tile.columns, g.n = k, g.k = tile.rows;
    g.a = dz, g.a_row = 1, g.a_col = tile.columns;
    g.b = x.data<T>() + tile.row * k, g.b_row = k;
    g.c = dw.data<T>() + tile.first * k, g.c_row = k;
    g.alpha = static_cast<T>(1 / args.temperature), g.beta = T{1};
    gemm(g);
  }

  void run() const {
    const Tensor logits = Tensor::empty({kRows, kColumns}, x.dtype());
    T* z = logits.data<T>();
    if (dw) dw.fill(0);
    for_logits_tiles(x.dim(0), kRows, w.dim(0), kColumns, [&](const LogitsTile& tile) {
      make_logits(x, w, tile, args.temperature, z);
      differentiate(tile, z);
      if (dx) add_dx(tile, z);
      if (dw) add_dw(tile, z);
    });
  }
};

}  // namespace

void linear_log_prob(const Tensor& x, const Tensor& w, const Tensor& targets,
                     const LinearLogProbArgs& args, const Tensor& log_prob, const Tensor& entropy,
                     const Tensor& lse) {
  const char* name = "linear_log_prob";
  check_log_prob_operands(name, x, w, targets, args);
  check_log_prob_results(name, x, log_prob, entropy, lse);
  check_targets(name, targets, w.dim(0), args.ignore_index);
  visit_float(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    forward<T>(x, w, targets.data<int64_t>(), args, log_prob.data<T>(), entropy.data<T>(),
               lse.data<T>());
  });
}

void linear_log_prob_backward(const Tensor& x, const Tensor& w, const Tensor& targets,
                              const LinearLogProbArgs& args, const Tensor& entropy,
                              const Tensor& lse, const LinearLogProbGrads& grads) {
  const char* name = "linear_log_prob_backward";
  check_log_prob_operands(name, x, w, targets, args);
  check_operand(name, "entropy", entropy, log_prob_dtype(x), x.dim(0));
  check_operand(name, "lse", lse, log_prob_dtype(x), x.dim(0));
  check_log_prob_grads(name, x, w, grads);
  check_targets(name, targets, w.dim(0), args.ignore_index);
  if (!grads.dx && !grads.dw) return;
  visit_float(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    Backward<T>{x,
                w,
                targets.data<int64_t>(),
                args,
                entropy.data<T>(),
                lse.data<T>(),
                data_or_null<T>(grads.d_log_prob),
                data_or_null<T>(grads.d_entropy),
                grads.dx,
                grads.dw}
        .run();
  });
}

}  // namespace parlo::cpu
