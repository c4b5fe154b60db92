#include "kernels/skinny.h"

#include "tests/kernels/kernel_support.h"

namespace parlo::test {

TEST_CASE("skinny linear: is linear on the CPU, and keeps no pre-activation") {
  for (const DType weight : {DType::f32, DType::bf16}) {
    const Tensor x = random_tensor({5, 24}, 1), w = random_tensor({7, 24}, 2).to(weight);
    const LowRank low{random_tensor({3, 24}, 3), random_tensor({7, 3}, 4), 0.5, {}};
    LinearArgs args;
    args.bias = random_tensor({7}, 5), args.residual = random_tensor({5, 7}, 6);
    args.low_rank = &low, args.activation = Activation::silu;
    const Tensor y = Tensor::empty({5, 7}), want = Tensor::empty({5, 7});
    cpu::skinny_linear(x, w, y, args);
    cpu::linear(x, w, want, args);
    CHECK(same_bits(y, want));
    args.pre_activation = want;
    CHECK(contains(message_of([&] { cpu::skinny_linear(x, w, y, args); }), "pre_activation"));
  }
}

}  // namespace parlo::test
