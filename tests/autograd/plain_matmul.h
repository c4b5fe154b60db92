// The product of matrices as plain loops.
#pragma once

#include <vector>

#include "tests/autograd/gradcheck.h"

namespace parlo::test {

// c = op(a) op(b) of one matrix each, leading axes already the same.
inline Tensor plain_matmul(const Tensor& a, const Tensor& b, bool ta, bool tb) {
  const int rank = std::max(a.rank(), b.rank());
  Shape sa = a.shape(), sb = b.shape();
  while (sa.rank() < rank) sa.insert(0, 1);
  while (sb.rank() < rank) sb.insert(0, 1);
  const int64_t m = sa[ta ? -1 : -2], k = sa[ta ? -2 : -1], n = sb[tb ? -2 : -1];
  Shape out = sa, batch_a = sa, batch_b = sb;
  for (int i = 0; i + 2 < rank; ++i) out[i] = sa[i] == 1 ? sb[i] : sa[i];
  out[-2] = m;
  out[-1] = n;
  batch_a[-2] = m, batch_a[-1] = k;
  batch_b[-2] = k, batch_b[-1] = n;
  Tensor x = a.view(sa), y = b.view(sb);
  if (ta) x = x.transpose(rank - 2, rank - 1);
  if (tb) y = y.transpose(rank - 2, rank - 1);
  Shape full_a = out, full_b = out;
  full_a[-1] = k;
  full_b[-2] = k;
  const std::vector<double> va = x.expand(full_a).to_vector(), vb = y.expand(full_b).to_vector();
  std::vector<double> c(static_cast<size_t>(out.numel()), 0.0);
  for (int64_t i = 0; i < out.numel(); ++i) {
    const int64_t batch = i / (m * n), row = i / n % m, column = i % n;
    for (int64_t j = 0; j < k; ++j)
      c[i] += va[(batch * m + row) * k + j] * vb[(batch * k + j) * n + column];
  }
  return Tensor::from(c, out);
}

}  // namespace parlo::test
