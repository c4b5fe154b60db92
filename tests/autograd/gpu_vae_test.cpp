// The ops of a VAE's block on a GPU against the CPU: group norm with silu in either layout, a
// causal convolution with residual, nearest upsampling.
#include "autograd/functions.h"
#include "autograd/ops.h"
#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

struct Block {
  Tensor x, gain, bias, w, offset, dy;
};

// The result and the gradients of all inputs.
std::vector<Tensor> run(const Block& b, Device device, bool channels_last) {
  const auto var = [&](const Tensor& t) { return Var(t.to(device), true); };
  const Var x = var(b.x), gain = var(b.gain), bias = var(b.bias), w = var(b.w);
  const Var offset = var(b.offset);
  const Var h = group_norm(x, 2, gain, bias, 1e-6, Activation::silu, channels_last);
  const Var y = conv3d(h, w, offset, causal_conv3d(3), x);
  const Var up = resize(y, {y.dim(2), 2 * y.dim(3), 2 * y.dim(4)}, {});
  backward(up, b.dy.to(device));
  return {up.value(), x.grad(), gain.grad(), bias.grad(), w.grad(), offset.grad()};
}

}  // namespace

TEST_CASE("gpu: a block of a VAE in either layout equals the CPU's") {
  const Block b{
      random_tensor({2, 8, 2, 3, 4}, 1), random_tensor({8}, 2), random_tensor({8}, 3),
      random_tensor({8, 8, 3, 3, 3}, 4), random_tensor({8}, 5), random_tensor({2, 8, 2, 6, 8}, 6)};
  const std::vector<Tensor> want = run(b, {}, true);
  for (const bool channels_last : {false, true}) {
    const std::vector<Tensor> got = run(b, kGpu, channels_last);
    for (size_t i = 0; i < want.size(); ++i) {
      INFO("result ", i, ", channels last ", channels_last);
      check_close(got[i], want[i], 3e-5);  // several f32 sums after one another
    }
  }
}

}  // namespace parlo::test
