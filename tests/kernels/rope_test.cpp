#include "kernels/rope.h"

#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

Tensor rope(const Tensor& x, const Tensor& cos, const Tensor& sin, RopeStyle style, bool inverse) {
  Tensor y = Tensor::empty(x.shape(), x.dtype());
  cpu::rope(x, cos, sin, style, inverse, y);
  return y;
}

}  // namespace

TEST_CASE("rope: plain loop, inverse, views, samples alone") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (int64_t D : {2, 6, 24, 32, 40, 64, 128}) {
      const int64_t B = 2, T = 5, H = 3;
      const Tensor angle = random_tensor({T, D / 2}, 1, DType::f64);
      Tensor cos = Tensor::empty_like(angle), sin = Tensor::empty_like(angle);
      for (int64_t i = 0; i < angle.numel(); ++i) {
        cos.data<double>()[i] = std::cos(angle.data<double>()[i]);
        sin.data<double>()[i] = std::sin(angle.data<double>()[i]);
      }
      cos = cos.to(dtype);
      sin = sin.to(dtype);
      // Queries as a slice of a joint projection.
      const Tensor joint = random_tensor({B, T, 3, H, D}, 2, dtype);
      const Tensor x = joint.select(2, 1);
      for (RopeStyle style : {RopeStyle::pairs, RopeStyle::halves}) {
        const Tensor y = rope(x, cos, sin, style, false);
        const auto vx = x.to_vector(), vc = cos.to_vector(), vs = sin.to_vector();
        std::vector<double> expected(vx.size());
        for (int64_t k = 0; k < B * T * H; ++k)
          for (int64_t i = 0; i < D / 2; ++i) {
            const bool pairs = style == RopeStyle::pairs;
            const int64_t t = k / H % T, a = k * D + (pairs ? 2 * i : i),
                          b = k * D + (pairs ? 2 * i + 1 : i + D / 2);
            const double c = vc[t * D / 2 + i], s = vs[t * D / 2 + i];
            expected[a] = vx[a] * c - vx[b] * s;
            expected[b] = vx[a] * s + vx[b] * c;
          }
        check_close(y, Tensor::from(expected, x.shape()), tolerance(dtype) / 10);
        check_close(rope(y, cos, sin, style, true), x.contiguous());
        CHECK(same_bits(rope(x.slice(0, 1, 2), cos, sin, style, false), y.slice(0, 1, 2)));
        const Tensor same = x.clone();
        cpu::rope(same, cos, sin, style, false, same);
        CHECK(same_bits(same, y));
      }
    }
  }
}

TEST_CASE("rope: threads, empty, odd head sizes refused") {
  const Tensor x = random_tensor({3, 40, 10, 64}, 1), angle = random_tensor({40, 32}, 2);
  check_thread_counts([&] {
    return std::vector<Tensor>{rope(x, angle, angle, RopeStyle::pairs, false),
                               rope(x, angle, angle, RopeStyle::halves, true)};
  });
  rope(Tensor::empty({0, 40, 10, 64}), angle, angle, RopeStyle::pairs, false);
  CHECK(contains(message_of([&] {
                   rope(Tensor::empty({1, 40, 1, 63}), angle, angle, RopeStyle::pairs, false);
                 }),
                 "even D"));
  CHECK(contains(
      message_of([&] { rope(x.slice(1, 0, 39), angle, angle, RopeStyle::pairs, false); }), "cos"));
}
