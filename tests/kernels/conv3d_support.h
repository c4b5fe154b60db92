// Convolutions of volumes that the tests of both backends make.
#pragma once

#include "kernels/conv.h"
#include "tests/support.h"

namespace parlo::test {

struct Conv3dCase {
  int64_t batch, in, out;
  ConvAxes size, kernel;
  Conv3dArgs args;
};

inline std::vector<Conv3dCase> conv3d_cases() {
  const Border zero = Border::zero, replicate = Border::replicate;
  return {{2, 3, 4, {3, 4, 5}, {3, 3, 3}, causal_conv3d(3)},
          {1, 2, 3, {5, 6, 4}, {3, 3, 3}, causal_conv3d(3, {2, 2, 2})},
          {1, 2, 3, {3, 5, 4}, {3, 3, 3}, causal_conv3d(3, {1, 2, 2}, zero)},
          {2, 3, 2, {2, 3, 4}, {1, 1, 1}, {}},
          {1, 4, 6, {1, 5, 4}, {1, 3, 3}, {{1, 2, 2}, {0, 0, 0}, {0, 1, 1}, zero, 2}},
          {1, 2, 2, {3, 2, 2}, {2, 3, 2}, {{1, 3, 2}, {2, 4, 1}, {1, 2, 3}, replicate, 1}},
          {1, 2, 2, {2, 3, 3}, {1, 2, 1}, {{3, 1, 2}, {1, 1, 0}, {1, 0, 2}, zero, 2}},
          {1, 1, 1, {1, 1, 1}, {3, 3, 3}, causal_conv3d(3)},
          {0, 2, 3, {2, 2, 2}, {1, 1, 1}, {}}};
}

struct Conv3dProblem {
  Tensor x, w, bias, residual, dy;
  Conv3dArgs args;
};

inline Conv3dProblem make_conv3d(const Conv3dCase& c, DType dtype) {
  Shape y = {c.batch, c.out};
  for (size_t i = 0; i < 3; ++i) {
    const int64_t padded = c.size[i] + c.args.before[i] + c.args.after[i];
    y.push_back((padded - c.kernel[i]) / c.args.stride[i] + 1);
  }
  const auto random = [&](const Shape& shape, uint32_t seed) {
    return random_tensor(shape, seed, dtype);
  };
  return {random({c.batch, c.in, c.size[0], c.size[1], c.size[2]}, 1),
          random({c.out, c.in / c.args.groups, c.kernel[0], c.kernel[1], c.kernel[2]}, 2),
          random({c.out}, 3),
          random(y, 4),
          random(y, 5),
          c.args};
}

}  // namespace parlo::test
