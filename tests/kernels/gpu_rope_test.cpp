#include "kernels/rope.h"

#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

struct Angles {
  Tensor cos, sin, cos64, sin64;  // the same f32 values
  Angles(int64_t positions, int64_t half) {
    const Tensor angle = random_tensor({positions, half}, 1, DType::f64, 3);
    std::vector<double> c = angle.to_vector(), s = c;
    for (double& v : c) v = std::cos(v);
    for (double& v : s) v = std::sin(v);
    const auto rounded = [&](const std::vector<double>& v) {
      return Tensor::from(v, angle.shape()).to(DType::f32);
    };
    cos = on_gpu(rounded(c)), sin = on_gpu(rounded(s));
    cos64 = rounded(c).to(DType::f64), sin64 = rounded(s).to(DType::f64);
  }
};

void check_rope(const Tensor& x, const Tensor& x64, const Angles& a, RopeStyle style,
                const Tensor& y) {
  INFO(concat(dtype_name(x.dtype()), ", ", x.shape(),
              style == RopeStyle::pairs ? ", pairs" : ", halves"));
  const Tensor want = Tensor::empty(x.shape(), DType::f64);
  for (const bool inverse : {false, true}) {
    cpu::rope(x64, a.cos64, a.sin64, style, inverse, want);
    cuda::rope(x, a.cos, a.sin, style, inverse, y);
    check_close(y, want, tolerance(x.dtype()));
  }
}

}  // namespace

TEST_CASE("gpu: rope of queries inside a joint projection") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t D : {2, 6, 8, 16, 24, 64, 128}) {
      const int64_t B = 2, T = 7, H = 5;
      const Angles angles(T, D / 2);
      const GpuInput joint({B, T, 3, H, D}, 2, dtype);
      const Tensor x = joint.gpu.select(2, 1), x64 = joint.reference.select(2, 1);
      for (const RopeStyle style : {RopeStyle::pairs, RopeStyle::halves}) {
        const Tensor y = gpu_output(x.shape(), dtype);
        check_rope(x, x64, angles, style, y);
        // Into a view with heads before positions, and in place.
        const Tensor heads_first = gpu_output({B, H, T, D}, dtype).permute({0, 2, 1, 3});
        check_rope(x, x64, angles, style, heads_first);
        cuda::rope(x, angles.cos, angles.sin, style, false, y);
        const Tensor alone = gpu_output({1, T, H, D}, dtype), same = x.clone();
        cuda::rope(x.slice(0, 1, 2), angles.cos, angles.sin, style, false, alone);
        CHECK(same_values(alone, y.slice(0, 1, 2)));
        cuda::rope(same, angles.cos, angles.sin, style, false, same);
        CHECK(same_values(same, y));
      }
    }
  }
}

TEST_CASE("gpu: rope of long sequences, and of what is not aligned") {
  for (const DType dtype : kGpuTypes) {
    for (const RopeStyle style : {RopeStyle::pairs, RopeStyle::halves}) {
      const Angles angles(300, 16);
      const GpuInput x({1, 300, 9, 32}, 3, dtype);
      check_rope(x.gpu, x.reference, angles, style, gpu_output({1, 300, 9, 32}, dtype));
      // Heads at odd addresses.
      const GpuInput wide({2, 300, 3, 33}, 4, dtype);
      const auto odd = [](const Tensor& t) { return t.slice(3, 1, 33); };
      check_rope(odd(wide.gpu), odd(wide.reference), angles, style,
                 odd(gpu_output({2, 300, 3, 33}, dtype)));
    }
  }
}

TEST_CASE("gpu: rope of nothing, and what it refuses") {
  const Angles angles(3, 4);
  const auto message = [&](const Tensor& x, const Tensor& y) {
    return message_of([&] { cuda::rope(x, angles.cos, angles.sin, RopeStyle::pairs, false, y); });
  };
  const Tensor none = gpu_output({0, 3, 2, 8}), x = gpu_output({1, 3, 2, 8});
  CHECK(message(none, none).empty());
  CHECK(contains(message(gpu_output({1, 3, 2, 7}), x), "even D"));
  CHECK(contains(message(x, gpu_output({1, 3, 2, 8}, DType::bf16)), "rope: y needs dtype"));
  CHECK(contains(message(gpu_output({1, 4, 2, 8}), gpu_output({1, 4, 2, 8})), "rope: cos"));
  CHECK(contains(message(x, Tensor::zeros({1, 3, 2, 8})), "operands lie on"));
}

}  // namespace parlo::test
