#include "kernels/norm.h"
#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

struct Case {
  GpuInput x, dy, weight, bias;
  NormParams p, p64;
  int64_t groups;
  Case(const Shape& shape, int64_t groups, DType dtype, DType params, bool affine = true)
      : x(shape, 1, dtype),
        dy(shape, 2, dtype),
        weight({shape[1]}, 3, params),
        bias({shape[1]}, 4, params),
        groups(groups) {
    if (!affine) return;
    p.weight = weight.gpu, p.bias = bias.gpu;
    p64.weight = weight.reference, p64.bias = bias.reference;
  }
};

struct Result {
  Tensor y, mean, rstd;
};

Result forward(const Case& c) {
  const Shape rows = {c.x.gpu.dim(0), c.groups};
  Result r{gpu_output(c.x.gpu.shape(), c.x.gpu.dtype()), gpu_output(rows), gpu_output(rows)};
  cuda::group_norm(c.x.gpu, c.groups, c.p, r.y, r.mean, r.rstd);
  return r;
}

Result reference(const Case& c) {
  const Shape rows = {c.x.gpu.dim(0), c.groups};
  Result r{Tensor::empty_like(c.x.reference), Tensor::empty(rows, DType::f64),
           Tensor::empty(rows, DType::f64)};
  cpu::group_norm(c.x.reference, c.groups, c.p64, r.y, r.mean, r.rstd);
  return r;
}

NormGrads backward(const Case& c, const Result& want) {
  const auto like = [](const Tensor& t) { return t ? gpu_output(t.shape(), t.dtype()) : Tensor(); };
  NormGrads g{like(c.x.gpu), like(c.p.weight), like(c.p.bias), {}, {}};
  cuda::group_norm_backward(c.x.gpu, c.groups, c.p, on_gpu(want.mean.to(DType::f32)),
                            on_gpu(want.rstd.to(DType::f32)), c.dy.gpu, g);
  return g;
}

void check_case(const Case& c) {
  INFO(concat(dtype_name(c.x.gpu.dtype()), ", ", c.x.gpu.shape(), " in ", c.groups, " groups"));
  const Result got = forward(c), want = reference(c);
  check_close(got.y, want.y, tolerance(c.x.gpu.dtype()));
  check_close(got.mean, want.mean);
  check_close(got.rstd, want.rstd);
  const NormGrads g = backward(c, want);
  NormGrads e{Tensor::empty_like(want.y),
              Tensor::empty({c.x.gpu.dim(1)}, DType::f64),
              Tensor::empty({c.x.gpu.dim(1)}, DType::f64),
              {},
              {}};
  cpu::group_norm_backward(c.x.reference, c.groups, c.p64, want.mean, want.rstd, c.dy.reference, e);
  check_close(g.dx, e.dx);
  if (g.dweight) check_close(g.dweight, e.dweight);
  if (g.dbias) check_close(g.dbias, e.dbias);
}

}  // namespace

TEST_CASE("gpu: group norm of every kind of span") {
  for (const DType dtype : kGpuTypes) {
    check_case({{2, 6, 35}, 3, dtype, dtype});         // not aligned
    check_case({{3, 12, 1}, 2, dtype, DType::f32});    // no positions
    check_case({{2, 64, 64}, 32, dtype, DType::f32});  // channels shorter than a pack of a warp
    check_case({{2, 6, 8, 40}, 1, dtype, dtype});
    check_case({{1, 4, 1000}, 4, dtype, dtype, false});
    check_case({{2, 2, 20008}, 1, dtype, dtype});  // several spans of a channel
    check_case({{1, 3, 4097}, 1, dtype, dtype});   // the same, not aligned
  }
}

TEST_CASE("gpu: group norm with silu") {
  for (const DType dtype : kGpuTypes) {
    for (const bool affine : {true, false}) {
      for (const Shape& shape : {Shape{2, 6, 35}, Shape{2, 6, 40}, Shape{1, 2, 9000}}) {
        Case c(shape, 2, dtype, DType::f32, affine);
        c.p.activation = c.p64.activation = Activation::silu;
        check_case(c);
      }
    }
  }
}

TEST_CASE("gpu: group norm into rows of channels") {
  for (const DType dtype : kGpuTypes) {
    for (const Shape& shape : {Shape{2, 72, 35}, Shape{2, 8, 136}, Shape{1, 8, 9000}}) {
      Case c(shape, 4, dtype, dtype);
      c.p.activation = shape[2] == 35 ? Activation::none : Activation::silu;
      const Result want = forward(c);
      Result got{gpu_output({shape[0], shape[2], shape[1]}, dtype).transpose(1, 2),
                 gpu_output({shape[0], 4}), gpu_output({shape[0], 4})};
      cuda::group_norm(c.x.gpu, 4, c.p, got.y, got.mean, got.rstd);
      CHECK(same_values(got.y, want.y));
      CHECK(same_values(got.mean, want.mean));
      CHECK(same_values(got.rstd, want.rstd));
    }
  }
  const Tensor x = gpu_output({1, 4, 5}), y = gpu_output({1, 5, 4}).transpose(1, 2);
  const Tensor row = gpu_output({1, 2});
  CHECK(contains(message_of([&] { cuda::group_norm(x, 2, {}, y, row, row); }), "not contiguous"));
}

TEST_CASE("gpu: group norm in portions of the L2") {
  // Groups of 8 MB: each is a portion of its own in any L2 below 64 MB.
  const Case c({1, 2, int64_t{1} << 21}, 2, DType::f32, DType::f32);
  const Result got = forward(c), want = reference(c);
  check_close(got.y, want.y, tolerance(DType::f32));
  check_close(got.rstd, want.rstd);
}

TEST_CASE("gpu: a sample's group norm has the same bits in any batch") {
  for (const DType dtype : kGpuTypes) {
    const Case all({3, 4, 5000}, 2, dtype, dtype);
    Case one = all;
    const auto last = [](const Tensor& t) { return t.slice(0, t.dim(0) - 1, t.dim(0)); };
    one.x.gpu = last(all.x.gpu), one.dy.gpu = last(all.dy.gpu);
    const Result f = forward(all), f1 = forward(one), want = reference(all);
    CHECK(same_values(last(f.y), f1.y));
    CHECK(same_values(last(f.rstd), f1.rstd));
    const Result want1{{}, last(want.mean), last(want.rstd)};
    CHECK(same_values(last(backward(all, want).dx), backward(one, want1).dx));
    CHECK(same_values(backward(all, want).dweight, backward(all, want).dweight));
  }
}

TEST_CASE("gpu: group norm keeps precision far from zero") {
  Case c({1, 2, 9000}, 1, DType::f32, DType::f32, false);
  std::vector<double> values = c.x.reference.to_vector();
  for (double& v : values) v += 1000;
  const Tensor x = Tensor::from(values, c.x.gpu.shape()).to(DType::f32);
  c.x.gpu = on_gpu(x), c.x.reference = x.to(DType::f64);
  // The rounding of the mean alone is 1000 2^-24 of a deviation of 1.
  check_close(forward(c).y, reference(c).y, 1e-4);
}

TEST_CASE("gpu: group norm of nothing, and what it refuses") {
  const Tensor none = gpu_output({2, 4, 0}), rows = gpu_output({2, 2});
  cuda::group_norm(none, 2, {}, none, rows, rows);
  NormGrads g;
  g.dx = none, g.dweight = gpu_output({4}), g.dbias = gpu_output({4});
  cuda::group_norm_backward(none, 2, {}, rows, rows, none, g);
  check_close(g.dweight, Tensor::zeros({4}));
  check_close(g.dbias, Tensor::zeros({4}));
  const Tensor x = gpu_output({2, 4, 3}, DType::bf16);
  const auto message = [&](int64_t groups, const Tensor& y, const Tensor& mean) {
    return message_of([&] { cuda::group_norm(x, groups, {}, y, mean, rows); });
  };
  CHECK(contains(message(3, x, rows), "4 channels do not split into 3 groups"));
  CHECK(contains(message(2, x, gpu_output({2, 2}, DType::bf16)), "group_norm: mean has dtype"));
  CHECK(contains(message(2, Tensor::zeros({2, 4, 3}, DType::bf16), rows), "operands lie on"));
}

}  // namespace parlo::test
