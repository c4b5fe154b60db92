// Decompositions of f64 matrices that merges need. They stand in one file because Eigen's take a
// minute to compile.
#pragma once

#include <Eigen/Core>

namespace parlo {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

// m [R, C] = q r, with k = min(R, C): q [R, k] has orthonormal columns, r [k, C] is upper
// triangular.
struct Qr {
  Matrix q, r;
};
Qr thin_qr(const Matrix& m);
// r alone; |m x| = |r x| for every x.
Matrix triangle(const Matrix& m);

// m [R, C] = u diag(sigma) v', with k = min(R, C): u [R, k], v [C, k], sigma [k] not increasing.
struct Svd {
  Matrix u, v;
  Eigen::VectorXd sigma;
};
Svd thin_svd(const Matrix& m);

}  // namespace parlo
