// Teaches a network of one hidden layer the sine, with an installed parlo.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "autograd/ops.h"
#include "autograd/optim.h"

using namespace parlo;

int main() {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  auto parameter = [&](const Shape& shape) {
    std::vector<float> values(shape.numel());
    for (float& value : values) value = 0.5f * normal(random);
    return Var(Tensor::from(values, shape), /*requires_grad=*/true);
  };
  std::vector<float> inputs(64), targets(64);
  for (int i = 0; i < 64; ++i) targets[i] = std::sin(inputs[i] = -3 + 6 * i / 63.f);
  const Var x(Tensor::from(inputs, {64, 1})), y(Tensor::from(targets, {64, 1}));

  const Var w1 = parameter({32, 1}), b1 = parameter({32}), w2 = parameter({1, 32});
  AdamW optimiser({{"w1", w1}, {"b1", b1}, {"w2", w2}}, {});
  double loss_value = 0;
  for (int step = 0; step < 300; ++step) {
    const Var hidden = tanh(linear(x, w1, b1));
    const Var loss = mean(square(sub(linear(hidden, w2, {}), y)));
    backward(loss);
    optimiser.step(0.02);
    zero_grads(optimiser.params());
    loss_value = loss.value().item();
    if (step % 50 == 0) std::printf("step %3d  loss %.5f\n", step, loss_value);
  }
  std::printf("final     loss %.5f\n", loss_value);
  return loss_value < 0.01 ? 0 : 1;
}
