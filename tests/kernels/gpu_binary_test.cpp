#include "kernels/elementwise.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

constexpr Binary kBinaries[] = {Binary::add, Binary::sub, Binary::mul,
                                Binary::div, Binary::min, Binary::max};

// f on views made by the same steps from operands on the CPU (f64) and on the GPU.
template <class View>
void compare(const Shape& a_shape, const Shape& b_shape, View view, DType dtype) {
  const GpuInput a(a_shape, 1, dtype), b(b_shape, 2, dtype);
  const Tensor va = view(a.reference, true), vb = view(b.reference, false);
  const Tensor want = Tensor::empty(va.shape(), DType::f64), got = gpu_output(va.shape(), dtype);
  INFO("to ", to_string(va.shape()), " in ", dtype_name(dtype));
  for (const Binary f : kBinaries) {
    CAPTURE(static_cast<int>(f));
    cpu::binary(f, va, vb, want);
    cuda::binary(f, view(a.gpu, true), view(b.gpu, false), got);
    check_close(got, want);
  }
}

}  // namespace

TEST_CASE("gpu: binary on contiguous operands, aligned or not, in place") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t n : {0, 1, 3, 8, 255, 4099}) {
      compare(
          {n}, {n}, [](const Tensor& t, bool) { return t; }, dtype);
      compare(
          {n + 1}, {n + 1}, [n](const Tensor& t, bool) { return t.slice(0, 1, n + 1); }, dtype);
      const GpuInput a({n}, 1, dtype), b({n}, 2, dtype);
      const Tensor want = gpu_output({n}, dtype);
      cuda::binary(Binary::sub, a.gpu, b.gpu, want);
      cuda::binary(Binary::sub, a.gpu, b.gpu, b.gpu);
      CHECK(same_gpu_bits(b.gpu, want));
    }
  }
}

TEST_CASE("gpu: binary with broadcast operands") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t C : {1, 5, 16, 264}) {
      const Shape full = {3, 4, C};
      const auto expand = [full](const Tensor& t, bool) { return t.expand(full); };
      compare(full, {C}, expand, dtype);
      compare({3, 1, C}, full, expand, dtype);
      compare(full, {3, 4, 1}, expand, dtype);
      compare({1, 1, 1}, full, expand, dtype);
      compare({4, C}, {3, 1, 1}, expand, dtype);
      compare({1, 1, 1}, {1}, expand, dtype);
    }
  }
}

TEST_CASE("gpu: binary with transposed and sliced operands") {
  for (const DType dtype : kGpuTypes) {
    compare(
        {6, 32}, {32, 6}, [](const Tensor& t, bool first) { return first ? t : t.transpose(0, 1); },
        dtype);
    compare(
        {5, 64}, {5, 32},
        [](const Tensor& t, bool first) {
          return first ? t.slice(1, 16, 48) : t;  // whole packs of a longer row
        },
        dtype);
    compare(
        {5, 64}, {5, 32}, [](const Tensor& t, bool first) { return first ? t.slice(1, 3, 35) : t; },
        dtype);
    compare(
        {5, 35}, {5, 32}, [](const Tensor& t, bool first) { return first ? t.slice(1, 0, 32) : t; },
        dtype);  // an aligned first row alone
    compare(
        {2, 3, 4, 8, 2}, {2, 4, 3, 8, 2},
        [](const Tensor& t, bool first) {
          return first ? t.permute({3, 1, 4, 2, 0}) : t.permute({3, 2, 4, 1, 0});
        },
        dtype);
  }
}

TEST_CASE("gpu: binary with more packs than one grid has threads") {
  const int64_t n = int64_t{1} << 20;
  const GpuInput a({n}, 1, DType::bf16), one({1}, 2, DType::bf16);
  const Tensor want = Tensor::empty({n}, DType::f64), got = gpu_output({n}, DType::bf16);
  cpu::binary(Binary::add, a.reference, one.reference.expand({n}), want);
  cuda::binary(Binary::add, a.gpu, one.gpu.expand({n}), got);
  check_close(got, want);
}

TEST_CASE("gpu: min and max keep NaN; what does not fit is refused") {
  const float nan = std::nanf("");
  const Tensor a = on_gpu(Tensor::from(std::vector<float>{nan, 1, 2}, {3}));
  const Tensor b = on_gpu(Tensor::from(std::vector<float>{1, nan, 3}, {3}));
  for (const Binary f : {Binary::min, Binary::max}) {
    const Tensor out = gpu_output({3});
    cuda::binary(f, a, b, out);
    const std::vector<double> got = out.to_vector();
    CHECK(std::isnan(got[0]));
    CHECK(std::isnan(got[1]));
    CHECK(got[2] == (f == Binary::min ? 2 : 3));
  }
  const auto message = [&](const Tensor& x, const Tensor& out) {
    return message_of([&] { cuda::binary(Binary::add, x, b, out); });
  };
  CHECK(contains(message(gpu_output({4}), gpu_output({3})), "binary: a"));
  CHECK(contains(message(gpu_output({3}, DType::bf16), gpu_output({3})), "dtypes differ"));
  CHECK(contains(message(Tensor::zeros({3}), gpu_output({3})), "operands lie on"));
}

}  // namespace parlo::test
