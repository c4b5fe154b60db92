// Fits y = a x + b by gradient descent, with an installed parlo.
#include <cstdio>

#include "tensor/tensor.h"

int main() {
  using parlo::Tensor;
  const Tensor x = Tensor::from<float>({-1, 0, 1, 2}, {4});
  const Tensor y = Tensor::from<float>({-3, -1, 1, 3}, {4});  // a = 2, b = -1
  float a = 0, b = 0;
  for (int step = 0; step < 200; ++step) {
    float da = 0, db = 0;
    for (int i = 0; i < 4; ++i) {
      const float error = a * x.span<float>()[i] + b - y.span<float>()[i];
      da += error * x.span<float>()[i] / 2;
      db += error / 2;
    }
    a -= 0.2f * da;
    b -= 0.2f * db;
  }
  std::printf("a = %.3f, b = %.3f\n", a, b);
  return a > 1.99f && a < 2.01f ? 0 : 1;
}
