#include "kernels/cuda/blas_key.h"

#include <algorithm>

namespace parlo::cuda {
namespace {

constexpr int64_t kUsualRows = 4096;

int64_t bytes_of(DType dtype) {
  return static_cast<int64_t>(dtype_size(dtype));
}

int64_t alignment_of(const void* p, int64_t row, int64_t step, DType dtype) {
  const int64_t bits = static_cast<int64_t>(reinterpret_cast<uintptr_t>(p)) |
                       (row * bytes_of(dtype)) | (step * bytes_of(dtype)) | 16;
  return bits & -bits;
}

// The shortest distance of rows of that width with exactly this alignment (16: or more).
int64_t usual_row(int64_t width, int64_t alignment, DType dtype) {
  const int64_t unit = std::max<int64_t>(1, alignment / bytes_of(dtype));
  int64_t units = (width + unit - 1) / unit;
  if (alignment < 16 && units % 2 == 0) ++units;
  return units * unit;
}

}  // namespace

Alignments::Alignments(const GemmArgs& g)
    : a(alignment_of(g.a, g.a_row, g.a_step, g.in)),
      b(alignment_of(g.b, g.b_row, g.b_step, g.in)),
      add(alignment_of(g.add ? g.add : g.c, g.c_row, g.c_step, g.out)),
      out(alignment_of(g.c, g.c_row, g.c_step, g.out)) {
  if (g.bias) out = std::min(out, alignment_of(g.bias, 0, 0, g.out));
  if (g.aux) out = std::min(out, alignment_of(g.aux, 0, 0, g.out));
}

AlgorithmKey algorithm_key(const GemmArgs& g, const Alignments& at) {
  int64_t flags = 0;
  for (const bool bit : {g.in == DType::bf16, g.out == DType::bf16, g.trans_a, g.trans_b,
                         g.bias != nullptr, g.gelu, g.aux != nullptr, g.split_k}) {
    flags = flags * 2 + (bit ? 1 : 0);
  }
  for (const int64_t alignment : {at.a, at.b, at.add, at.out}) flags = flags * 32 + alignment;
  return {flags, g.n, g.k, g.split_k ? g.m : 0, g.split_k ? g.batch : 0};
}

GemmArgs usual_problem(const GemmArgs& g, const Alignments& at) {
  GemmArgs u = g;
  u.m = kUsualRows, u.batch = 1;
  u.a_step = u.b_step = u.c_step = 0;
  u.a_row = usual_row(g.trans_a ? u.m : g.k, at.a, g.in);
  u.b_row = usual_row(g.trans_b ? g.k : g.n, at.b, g.in);
  u.c_row = usual_row(g.n, std::min(at.add, at.out), g.out);
  return u;
}

}  // namespace parlo::cuda
