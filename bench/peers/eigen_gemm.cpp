// A shared library of its own with hidden symbols: compiled for this machine's instruction set.
#include <Eigen/Core>

extern "C" __attribute__((visibility("default"))) void parlo_bench_eigen_gemm(
    const float* a, bool trans_a, const float* b, bool trans_b, float* c, long m, long n, long k) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using In = Eigen::Map<const Matrix>;
  Eigen::Map<Matrix> out(c, m, n);
  const In left(a, trans_a ? k : m, trans_a ? m : k), right(b, trans_b ? n : k, trans_b ? k : n);
  if (trans_a && trans_b) {
    out.noalias() = left.transpose() * right.transpose();
  } else if (trans_a) {
    out.noalias() = left.transpose() * right;
  } else if (trans_b) {
    out.noalias() = left * right.transpose();
  } else {
    out.noalias() = left * right;
  }
}
