#include "kernels/norm_rope.h"

#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {

TEST_CASE("gpu: norm_rope and its gradient, of a slice of a fused projection") {
  const int64_t B = 2, T = 3, H = 5;
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {2, 40, 64, 128, 256}) {
      const GpuInput fused({B, T, 3, H, d}, 1, dtype), dy({B, T, H, d}, 2, dtype);
      const GpuInput weight({d}, 3, dtype), cos({T, d / 2}, 4, DType::f32),
          sin({T, d / 2}, 5, DType::f32);
      const Tensor x = fused.gpu.select(2, 1), x64 = fused.reference.select(2, 1);
      for (const RopeStyle style : {RopeStyle::pairs, RopeStyle::halves}) {
        for (const bool plain : {false, true}) {
          INFO(concat(dtype_name(dtype), ", D ", d, style == RopeStyle::pairs ? ", pairs" : ""));
          NormRope p, want_p;
          p.style = want_p.style = style;
          if (!plain) {
            p.weight = weight.gpu, p.cos = cos.gpu, p.sin = sin.gpu;
            want_p.weight = weight.reference, want_p.cos = cos.reference,
            want_p.sin = sin.reference;
          }
          const Shape shape{B, T, H, d};
          const Tensor want = Tensor::empty(shape, DType::f64), y = gpu_output(shape, dtype);
          cpu::norm_rope(x64, want_p, want);
          cuda::norm_rope(x, p, y);
          check_close(y, want, tolerance(dtype));
          cpu::norm_rope_backward(x64, want_p, dy.reference, want);
          cuda::norm_rope_backward(x, p, dy.gpu, y);
          check_close(y, want, tolerance(dtype));
          const Tensor alone = gpu_output({1, T, H, d}, dtype);
          cuda::norm_rope_backward(x.slice(0, 1, 2), p, dy.gpu.slice(0, 1, 2), alone);
          CHECK(same_gpu_bits(alone, y.slice(0, 1, 2)));
        }
      }
    }
  }
}

TEST_CASE("gpu: norm_rope of nothing, and with a weight in f32 under bf16") {
  const Tensor none = gpu_output({0, 3, 2, 8}, DType::bf16);
  cuda::norm_rope(none, {}, none);
  const GpuInput x({1, 2, 3, 64}, 1, DType::bf16), weight({64}, 2, DType::f32);
  NormRope p, want_p;
  p.weight = weight.gpu, want_p.weight = weight.reference;
  const Tensor y = gpu_output({1, 2, 3, 64}, DType::bf16);
  const Tensor want = Tensor::empty(y.shape(), DType::f64);
  cuda::norm_rope(x.gpu, p, y);
  cpu::norm_rope(x.reference, want_p, want);
  check_close(y, want, tolerance(DType::bf16));
}

}  // namespace parlo::test
