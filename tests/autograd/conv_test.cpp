#include "autograd/functions.h"
#include "tests/autograd/gradcheck.h"

namespace parlo::test {
namespace {

// Frame by frame: y[t] = residual[t] + sum over k of conv2d(x[t + k - (K - 1)], w[k]).
Tensor frames_by_conv2d(const Tensor& x, const Tensor& w, const Tensor& bias,
                        const Tensor& residual, Border border) {
  const NoGrad guard;
  const int64_t taps = w.dim(2);
  std::vector<Var> frames;
  for (int64_t t = 0; t < x.dim(2); ++t) {
    Var sum = slice(Var(residual), 2, t, t + 1);
    for (int64_t k = 0; k < taps; ++k) {
      int64_t at = t + k - (taps - 1);
      if (at < 0 && border == Border::zero) continue;
      at = std::max<int64_t>(at, 0);
      const Var y = conv2d(Var(x.select(2, at).contiguous()), Var(w.select(2, k).contiguous()),
                           k == taps - 1 ? Var(bias) : Var(), {1, w.dim(3) / 2, 1});
      sum = add(sum, reshape(y, {y.dim(0), y.dim(1), 1, y.dim(2), y.dim(3)}));
    }
    frames.push_back(sum);
  }
  return cat(frames, 2).value();
}

}  // namespace

TEST_CASE("conv3d equals conv2d of its frames") {
  for (const int64_t k : {1, 3}) {
    const Tensor x = normal64({2, 2, 3, 4, 3}, 1), w = normal64({3, 2, k, k, k}, 2);
    const Tensor bias = normal64({3}, 3), residual = normal64({2, 3, 3, 4, 3}, 4);
    const Conv3dArgs args = causal_conv3d(k, {1, 1, 1}, Border::zero);
    const Op op = [&](std::span<const Var> in) { return conv3d(in[0], in[1], in[2], args, in[3]); };
    check_close(check_op("conv3d", op, {x, w, bias, residual}),
                frames_by_conv2d(x, w, bias, residual, Border::zero));
  }
}

TEST_CASE("conv3d with replicated borders and strides") {
  // One row and column: replicated in space, a kernel's sum meets the same value.
  const Tensor x = normal64({1, 2, 4, 1, 1}, 1), w = normal64({2, 2, 3, 1, 1}, 2);
  const Tensor bias = normal64({2}, 3), residual = normal64({1, 2, 4, 1, 1}, 4);
  const Conv3dArgs time{{1, 1, 1}, {2, 0, 0}, {0, 0, 0}, Border::replicate, 1};
  const Var y = conv3d(Var(x), Var(w), Var(bias), time, Var(residual));
  check_close(y.value(), frames_by_conv2d(x, w, bias, residual, Border::replicate));
  const Tensor volume = normal64({1, 2, 5, 4, 4}, 5), kernel = normal64({2, 2, 3, 3, 3}, 6);
  const Conv3dArgs args = causal_conv3d(3, {2, 2, 2});
  const Op op = [&](std::span<const Var> in) { return conv3d(in[0], in[1], {}, args); };
  const Tensor z = check_op("conv3d", op, {volume, kernel});
  CHECK((z.shape() == Shape{1, 2, 3, 2, 2}));
}

TEST_CASE("resize of images and volumes") {
  const Tensor image = normal64({1, 2, 3, 4}, 1), volume = normal64({1, 2, 2, 2, 3}, 2);
  const Op nearest = [](std::span<const Var> in) { return resize(in[0], {4, 4, 6}, {}); };
  check_op("resize", nearest, {volume});
  for (const ResizeArgs& args :
       {ResizeArgs{Interpolation::bilinear}, ResizeArgs{Interpolation::bicubic, true}}) {
    const Op op = [&](std::span<const Var> in) { return resize(in[0], {2, 7}, args); };
    check_op("resize", op, {image});
  }
  CHECK(contains(message_of([&] { resize(Var(image), {2}, {}); }), "does not have the axes"));
}

TEST_CASE("conv3d names what does not fit") {
  const Var x(normal64({1, 2, 3, 4, 4}, 1)), w(normal64({2, 3, 1, 1, 1}, 2));
  CHECK(contains(message_of([&] { conv3d(x, w, {}, {}); }), "does not fit"));
  const Var large(normal64({2, 2, 5, 1, 1}, 3));
  CHECK(contains(message_of([&] { conv3d(x, large, {}, {}); }), "is larger than input"));
}

}  // namespace parlo::test
