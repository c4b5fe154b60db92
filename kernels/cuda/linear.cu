// linear on a GPU: y = activation(x w' + bias + scale (x a') b') + residual.
// On Hopper our own product does all of it in one pass where cuBLASLt cannot (gemm_sm90.h).
// Otherwise the base product is cuBLASLt's. Its epilogue adds a bias and applies the tanh GELU, and
// beta adds a residual; what it cannot do is one pass over y afterwards (linear_tail.h), the
// low-rank up-projection included. Between the two y is rounded once to its dtype. Rows of several
// adapters: consecutive ones that the Hopper product takes are one launch, others one product each.
// What takes a row depends on its own adapter, not on its neighbours.
#include "kernels/matmul.h"

#include "kernels/cuda/common.cuh"

#include <atomic>

#include "kernels/cuda/blas.h"
#include "kernels/cuda/gemm_sm90.h"
#include "kernels/cuda/linear_path.h"
#include "kernels/cuda/linear_tail.h"
#include "kernels/cuda/low_rank.h"
#include "kernels/linear_rows.h"
#include "kernels/matmul_checks.h"

namespace parlo::cuda {
namespace {

GemmArgs base_product(const Tensor& x, const Tensor& w, const Tensor& y) {
  GemmArgs g;
  g.device = y.device();
  g.in = x.dtype(), g.out = y.dtype();
  g.m = x.dim(0), g.n = w.dim(0), g.k = x.dim(1);
  g.a = x.raw(), g.b = w.raw(), g.c = y.raw();
  g.trans_b = true;
  g.a_row = g.b_row = g.k, g.c_row = g.n;
  return g;
}

// The whole of linear in one product, where the library can.
bool try_epilogue(GemmArgs g, const LinearArgs& args) {
  const bool plain = args.activation == Activation::none;
  // The library's tanh is an approximation that only bf16 hides.
  const bool gelu = args.activation == Activation::gelu_tanh && g.out == DType::bf16;
  if (args.low_rank || g.k == 0 || !(plain || gelu)) return false;
  if (plain ? args.pre_activation.defined() : args.residual.defined()) return false;
  if (args.bias) g.bias = args.bias.raw();
  if (args.residual) g.add = args.residual.raw(), g.beta = 1;
  g.gelu = gelu;
  if (args.pre_activation) g.aux = args.pre_activation.raw();
  return try_gemm(g);
}

// The operands as the kernels want them: contiguous, of x's dtype, `down` there and filled.
void make_ready(LowRank& low, const Tensor& x) {
  low.a = low.a.to(x.dtype()).contiguous(), low.b = low.b.to(x.dtype()).contiguous();
  if (!low.down) low.down = Tensor::empty({x.dim(0), low.a.dim(0)}, x.dtype(), x.device());
  if (!low_rank_down(x, low.a, low.down)) matmul(x, false, low.a, true, low.down);
}

// A batch of one adapter, whose `down` is filled, or none.
void linear_library(const Tensor& x, const Tensor& w, const Tensor& y, LinearArgs args) {
  const Tensor input = x.to(w.dtype());
  const GemmArgs g = base_product(input, w, y);
  if (try_epilogue(g, args)) return;
  if (args.residual && args.residual.raw() == y.raw()) args.residual = args.residual.clone();
  if (g.k == 0) {
    y.fill(0);
  } else {
    gemm(g);
  }
  if (const LowRank* low = args.low_rank) {
    if (linear_tail_low_rank(y, args)) return;
    matmul(low->down, false, low->b, true, y, low->scale, 1.0);
  }
  linear_tail(y, args);
}

// One call of linear, its adapters ready.
struct Batch {
  const Tensor &x, &w, &y;
  const LinearArgs& args;
  std::vector<LowRankRows> parts;

  // Parts [first, last) for the Hopper product; `shifted` is room for their segments.
  HopperProduct product(size_t first, size_t last, std::vector<LowRankRows>& shifted) const {
    const int64_t begin = parts[first].first, end = parts[last - 1].first + parts[last - 1].rows;
    shifted.clear();
    for (size_t i = first; i < last; ++i) {
      if (!parts[i].low_rank.a) continue;
      shifted.push_back(parts[i]);
      shifted.back().first -= begin;
    }
    HopperProduct p{x.slice(0, begin, end), w, y.slice(0, begin, end), false,
                    linear_args_of(args, begin, end)};
    p.args.low_rank_rows = shifted;
    return p;
  }

  bool is_for_hopper(size_t i) const {
    const bool plain = args.activation == Activation::none;
    const bool lacking = parts[i].low_rank.a || (args.residual && !plain);
    const LinearPath path = linear_path();
    if (path == LinearPath::library || (path == LinearPath::automatic && !lacking)) return false;
    std::vector<LowRankRows> room;
    return takes_gemm_sm90(product(i, i + 1, room));
  }

  void run_library(const LowRankRows& part) const {
    const int64_t begin = part.first, end = begin + part.rows;
    LinearArgs mine = linear_args_of(args, begin, end);
    if (part.low_rank.a) mine.low_rank = &part.low_rank;
    linear_library(x.slice(0, begin, end), w, y.slice(0, begin, end), mine);
  }

  void run() const {
    std::vector<LowRankRows> room;
    for (size_t i = 0; i < parts.size();) {
      size_t end = i;
      while (end < parts.size() && is_for_hopper(end)) ++end;
      if (end > i) {
        gemm_sm90(product(i, end, room));
      } else {
        run_library(parts[end++]);
      }
      i = end;
    }
  }
};

std::atomic<LinearPath> chosen_path{LinearPath::automatic};

}  // namespace

LinearPath linear_path() {
  return chosen_path;
}
UseLinearPath::UseLinearPath(LinearPath path) : before_(chosen_path.exchange(path)) {}
UseLinearPath::~UseLinearPath() {
  chosen_path = before_;
}

void linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  check_linear(x, w, y, args);
  check_same_device("linear", x, w, y, args.bias, args.pre_activation, args.residual);
  const DType dtype = x.dtype();
  visit_dtype_gpu(dtype, "linear", [](auto) {});
  LinearArgs ready = args;
  if (args.bias) ready.bias = args.bias.to(dtype).contiguous();
  Batch batch{x, w, y, ready, linear_parts(args, x.dim(0))};
  for (LowRankRows& part : batch.parts) {
    LowRank& low = part.low_rank;
    if (!low.a) continue;
    check_same_device("linear", x, low.a, low.b, low.down);
    make_ready(low, x.slice(0, part.first, part.first + part.rows));
  }
  if (y.numel() > 0) batch.run();
}

}  // namespace parlo::cuda
