#include "kernels/norm_rope.h"

#include "kernels/norm.h"
#include "tests/kernels/kernel_support.h"

namespace parlo::test {
namespace {

// The norm and the rotation as two kernels over copies.
struct Composite {
  Tensor x, rstd;
  NormParams norm;

  Composite(const Tensor& given, const NormRope& p)
      : x(given.contiguous().view({-1, given.dim(3)})), rstd(Tensor::empty({x.dim(0)}, x.dtype())) {
    norm.weight = p.weight, norm.eps = p.eps;
  }
  Tensor forward(const Shape& shape, const NormRope& p) {
    const Tensor y = Tensor::empty(shape, x.dtype());
    cpu::rms_norm(x, norm, y.view(x.shape()), rstd);
    if (p.cos) cpu::rope(y, p.cos, p.sin, p.style, false, y);
    return y;
  }
  Tensor backward(const Tensor& dy, const NormRope& p) {
    const Tensor dz = dy.clone(), dx = Tensor::empty(dy.shape(), dy.dtype());
    if (p.cos) cpu::rope(dz, p.cos, p.sin, p.style, true, dz);
    cpu::rms_norm_backward(x, norm, rstd, dz.view(x.shape()), {dx.view(x.shape()), {}, {}, {}, {}});
    return dx;
  }
};

NormRope parameters(int64_t steps, int64_t d, RopeStyle style, bool weight, bool angles,
                    DType dtype) {
  NormRope p;
  p.style = style;
  if (weight) p.weight = random_tensor({d}, 3, dtype);
  if (!angles) return p;
  // Any pair of numbers does.
  p.cos = random_tensor({steps, d / 2}, 4, dtype), p.sin = random_tensor({steps, d / 2}, 5, dtype);
  return p;
}

}  // namespace

TEST_CASE("norm_rope is the norm and then the rotation, in place of a slice") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    const double limit = dtype == DType::f32 ? 2e-6 : 1e-13;
    for (const int64_t d : {2, 40, 64, 128, 256}) {
      const Tensor fused = random_tensor({2, 5, 3, 3, d}, 1, dtype);
      const Tensor x = fused.select(2, 1), dy = random_tensor({2, 5, 3, d}, 2, dtype);
      for (const RopeStyle style : {RopeStyle::pairs, RopeStyle::halves}) {
        for (const bool weight : {false, true}) {
          for (const bool angles : {false, true}) {
            const NormRope p = parameters(5, d, style, weight, angles, dtype);
            Composite two(x, p);
            const Tensor y = Tensor::empty(dy.shape(), dtype), dx = Tensor::empty_like(y);
            cpu::norm_rope(x, p, y);
            check_close(y, two.forward(y.shape(), p), limit);
            cpu::norm_rope_backward(x, p, dy, dx);
            check_close(dx, two.backward(dy, p), 4 * limit);
          }
        }
      }
    }
  }
}

TEST_CASE("norm_rope refuses what does not fit") {
  const Tensor x = Tensor::zeros({1, 2, 1, 6}), y = Tensor::empty_like(x);
  NormRope p;
  p.cos = Tensor::zeros({2, 3});
  CHECK(contains(message_of([&] { cpu::norm_rope(x, p, y); }), "both cos and sin"));
  const Tensor odd = Tensor::zeros({1, 2, 1, 5});
  CHECK(contains(message_of([&] { cpu::norm_rope(odd, {}, odd.clone()); }), "even number"));
}

}  // namespace parlo::test
