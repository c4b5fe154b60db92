#include "kernels/add_rms_norm.h"

#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

struct Result {
  Tensor sum, y, rstd;
};

Result run(const Tensor& x, const Tensor& residual, const NormParams& p) {
  const Shape s = x.shape();
  Result r{gpu_output(s, x.dtype()), gpu_output(s, x.dtype()), gpu_output({s[0]})};
  cuda::add_rms_norm(x, residual, p, r.sum, r.y, r.rstd);
  return r;
}

struct Case {
  GpuInput x, residual, dy, dsum;
  NormParams p, p64;
};

Case make_case(int64_t rows, int64_t columns, bool weighted, DType dtype, DType weights) {
  const Shape s{rows, columns};
  Case c{GpuInput(s, 1, dtype),
         GpuInput(s, 2, dtype),
         GpuInput(s, 3, dtype),
         GpuInput(s, 4, dtype),
         {},
         {}};
  if (!weighted) return c;
  const GpuInput weight({columns}, 5, weights);
  c.p.weight = weight.gpu, c.p64.weight = weight.reference;
  return c;
}

void check_case(const Case& c) {
  const DType dtype = c.x.gpu.dtype();
  INFO(concat(dtype_name(dtype), ", ", c.x.gpu.shape()));
  const Result got = run(c.x.gpu, c.residual.gpu, c.p);
  const Tensor rows = Tensor::empty({c.x.gpu.dim(0)}, DType::f64);
  const Tensor sum = Tensor::empty_like(c.x.reference), y = Tensor::empty_like(sum);
  cpu::add_rms_norm(c.x.reference, c.residual.reference, c.p64, sum, y, rows);
  check_close(got.sum, sum);
  check_close(got.y, y);
  // The gradients are of the rounded sum.
  const Tensor sum64 = got.sum.to(Device{}).to(DType::f64);
  cpu::rms_norm(sum64, c.p64, y, rows);
  check_close(got.rstd, rows);
  const Tensor rstd = on_gpu(rows.to(DType::f32));
  for (const bool goes_on : {false, true}) {
    const Tensor dx = gpu_output(c.x.gpu.shape(), dtype), want = Tensor::empty_like(sum);
    // Its sums are rms_norm_backward's.
    const bool weighted = c.p.weight.defined() && sum.dim(1) < 1024;
    const Tensor dw = weighted ? gpu_output({sum.dim(1)}, c.p.weight.dtype()) : Tensor();
    const Tensor want_dw = weighted ? Tensor::empty({sum.dim(1)}, DType::f64) : Tensor();
    cuda::add_rms_norm_backward(got.sum, c.p, rstd, c.dy.gpu, goes_on ? c.dsum.gpu : Tensor(), dx,
                                dw);
    cpu::add_rms_norm_backward(sum64, c.p64, rows, c.dy.reference,
                               goes_on ? c.dsum.reference : Tensor(), want, want_dw);
    // One column: dx is dsum but for rounding.
    if (sum.dim(1) > 1 || goes_on) check_close(dx, want);
    if (sum.dim(1) > 1 && weighted) check_close(dw, want_dw);
  }
}

// One size for every way a row is held (bf16, then f32), and odd ones.
constexpr int64_t kColumns[] = {1,    3,    64,   256,  300,  512,   1024,
                                1032, 2048, 4096, 4100, 8192, 16384, 16402};

}  // namespace

TEST_CASE("gpu: add_rms_norm of any width") {
  for (const DType dtype : kGpuTypes)
    for (const int64_t columns : kColumns)
      check_case(make_case(2, columns, columns != 512, dtype, columns % 3 ? dtype : DType::f32));
}

TEST_CASE("gpu: add_rms_norm of many rows, not aligned, in place, with the same bits") {
  for (const DType dtype : kGpuTypes) {
    Case c = make_case(67, 72, true, dtype, DType::f32);
    check_case(c);
    const Result all = run(c.x.gpu, c.residual.gpu, c.p);
    const auto last = [](const Tensor& t) { return t.slice(0, 66, 67); };
    CHECK(same_gpu_bits(run(last(c.x.gpu), last(c.residual.gpu), c.p).y, last(all.y)));
    const Tensor over = c.residual.gpu.clone(), y = gpu_output({67, 72}, dtype);
    cuda::add_rms_norm(c.x.gpu, over, c.p, over, y, gpu_output({67}));
    CHECK(same_gpu_bits(over, all.sum));
    CHECK(same_gpu_bits(y, all.y));
    // y is the norm of the sum that is kept.
    cuda::rms_norm(all.sum, c.p, y, gpu_output({67}));
    check_close(y, all.y.to(Device{}), 1e-6);
    c.residual.gpu = shifted(c.residual.gpu), c.dsum.gpu = shifted(c.dsum.gpu);
    check_case(c);
  }
}

TEST_CASE("gpu: add_rms_norm of nothing, and what it refuses") {
  const Tensor none = gpu_output({0, 8}), dw = gpu_output({8}), x = gpu_output({2, 8});
  const NormParams p{gpu_output({8}), {}, {}, {}, 1e-6};
  run(none, none, p);
  cuda::add_rms_norm_backward(none, p, gpu_output({0}), none, none, none, dw);
  check_close(dw, Tensor::zeros({8}));
  CHECK(contains(message_of([&] { run(x, none, p); }), "add_rms_norm: residual"));
  CHECK(contains(message_of([&] { run(x, Tensor::zeros({2, 8}), p); }), "operands lie on"));
}

}  // namespace parlo::test
