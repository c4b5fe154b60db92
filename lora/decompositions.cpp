#include "lora/decompositions.h"

#include <Eigen/QR>
#include <Eigen/SVD>

namespace parlo {
namespace {

Matrix upper(const Eigen::HouseholderQR<Matrix>& qr) {
  const Matrix& packed = qr.matrixQR();
  return packed.topRows(std::min(packed.rows(), packed.cols())).triangularView<Eigen::Upper>();
}

}  // namespace

Qr thin_qr(const Matrix& m) {
  const Eigen::HouseholderQR<Matrix> qr(m);
  Matrix q = Matrix::Identity(m.rows(), std::min(m.rows(), m.cols()));
  q.applyOnTheLeft(qr.householderQ());
  return {std::move(q), upper(qr)};
}

Matrix triangle(const Matrix& m) {
  return upper(Eigen::HouseholderQR<Matrix>(m));
}

Svd thin_svd(const Matrix& m) {
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(m, Eigen::ComputeThinU | Eigen::ComputeThinV);
  return {svd.matrixU(), svd.matrixV(), svd.singularValues()};
}

}  // namespace parlo
