#include "autograd/functions.h"
#include "lora/merge_parts.h"
#include "lora/merge_rules.h"
#include "tensor/error.h"

namespace parlo {
namespace {

using Dense = Eigen::Map<const Matrix>;
constexpr Eigen::Index kFullSvd = 512;    // seconds beyond
constexpr Eigen::Index kOversample = 32;  // directions more than the rank
constexpr int kMaxIterations = 64;
constexpr double kGrowth = 1e-6;
constexpr int64_t kBlock = 64;  // rows or columns of D that a thread takes

// D x and D' x, the rows of the result in parallel.
Matrix times(const Dense& d, const Matrix& x) {
  Matrix out(d.rows(), x.cols());
  parallel_for(d.rows(), kBlock, [&](int64_t begin, int64_t end) {
    out.middleRows(begin, end - begin).noalias() = d.middleRows(begin, end - begin) * x;
  });
  return out;
}
Matrix transposed_times(const Dense& d, const Matrix& x) {
  Matrix out(d.cols(), x.cols());
  parallel_for(d.cols(), kBlock, [&](int64_t begin, int64_t end) {
    out.middleRows(begin, end - begin).noalias() = d.middleCols(begin, end - begin).transpose() * x;
  });
  return out;
}

// The leading triplets by subspace iteration (Halko, Martinsson, Tropp, arXiv 0909.4061).
Svd leading_svd(const Dense& d, Eigen::Index rank) {
  const Eigen::Index width = std::min(rank + kOversample, std::min(d.rows(), d.cols()));
  const RandomKey key = RandomKey(1).fold("cut_delta");
  Matrix q = thin_qr(times(d, to_matrix(random_normal(key, {d.cols(), width})))).q;
  double kept = 0;
  for (int i = 0; i < kMaxIterations; ++i) {
    const Qr z = thin_qr(transposed_times(d, q));  // of (Q' D)'
    const Svd small = thin_svd(z.r);
    const double now = small.sigma.head(std::min(rank, small.sigma.size())).squaredNorm();
    if (now - kept <= kGrowth * now || i + 1 == kMaxIterations) {
      return {q * small.v, z.q * small.u, small.sigma};
    }
    kept = now;
    q = thin_qr(times(d, z.q)).q;
  }
  return {};
}

}  // namespace

CutDelta cut_delta(const Tensor& delta, int64_t rank) {
  CHECK(rank >= 1, "cut_delta: rank is ", rank, ", expected at least 1");
  const Tensor values = delta.to(DType::f64).contiguous();
  const Dense d(values.data<double>(), delta.dim(0), delta.dim(1));
  const bool small = std::min(d.rows(), d.cols()) <= kFullSvd;
  const Svd svd = small ? thin_svd(d) : leading_svd(d, rank);
  const Eigen::Index kept = std::min<Eigen::Index>(rank, svd.sigma.size());
  const Eigen::VectorXd root = svd.sigma.head(kept).cwiseSqrt();
  // Zero columns and rows fill up to the asked rank.
  Matrix b = Matrix::Zero(d.rows(), rank), a = Matrix::Zero(rank, d.cols());
  b.leftCols(kept) = svd.u.leftCols(kept) * root.asDiagonal();
  a.topRows(kept) = root.asDiagonal() * svd.v.leftCols(kept).transpose();
  CutDelta out{{to_tensor(a), to_tensor(b), 1}, d.squaredNorm(), 0};
  out.discarded_energy = std::max(0.0, out.energy - svd.sigma.head(kept).squaredNorm());
  return out;
}

}  // namespace parlo
