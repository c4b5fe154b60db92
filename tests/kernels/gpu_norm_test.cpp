#include "kernels/norm.h"

#include "kernels/elementwise.h"
#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

// The CPU's norms in f64 on the same rounded inputs are the reference.
struct Case {
  Tensor x, dy, x64, dy64;
  NormParams p, p64;
  int64_t groups;
};

enum Parts { kWeight = 1, kBias = 2, kScale = 4, kShift = 8 };

// Parameters in `params`; scale and shift as chunks of one wide projection: rows with a stride.
Case make_case(int64_t rows, int64_t columns, int64_t groups, int parts, DType dtype,
               DType params) {
  const GpuInput x({rows, columns}, 1, dtype), dy({rows, columns}, 2, dtype);
  const GpuInput weight({columns}, 3, params), bias({columns}, 4, params);
  const GpuInput wide({groups, 3 * columns}, 5, params);
  Case c{x.gpu, dy.gpu, x.reference, dy.reference, {}, {}, groups};
  const auto give = [&](int part, Tensor NormParams::*member, const Tensor& gpu,
                        const Tensor& reference) {
    if (parts & part) c.p.*member = gpu, c.p64.*member = reference;
  };
  const auto chunk = [&](const Tensor& t, int i) {
    return t.slice(1, i * columns, (i + 1) * columns);
  };
  give(kWeight, &NormParams::weight, weight.gpu, weight.reference);
  give(kBias, &NormParams::bias, bias.gpu, bias.reference);
  give(kScale, &NormParams::scale, chunk(wide.gpu, 1), chunk(wide.reference, 1));
  give(kShift, &NormParams::shift, chunk(wide.gpu, 2), chunk(wide.reference, 2));
  return c;
}

struct Result {
  Tensor y, mean, rstd;
};

Result forward(const Case& c, bool rms) {
  const Shape rows = {c.x.dim(0)};
  Result r{gpu_output(c.x.shape(), c.x.dtype()), gpu_output(rows), gpu_output(rows)};
  if (rms) {
    cuda::rms_norm(c.x, c.p, r.y, r.rstd);
  } else {
    cuda::layer_norm(c.x, c.p, r.y, r.mean, r.rstd);
  }
  return r;
}

Result reference(const Case& c, bool rms) {
  const Tensor rows = Tensor::zeros({c.x.dim(0)}, DType::f64);
  Result r{Tensor::empty_like(c.x64), rows.clone(), rows.clone()};
  if (rms) {
    cpu::rms_norm(c.x64, c.p64, r.y, r.rstd);
  } else {
    cpu::layer_norm(c.x64, c.p64, r.y, r.mean, r.rstd);
  }
  return r;
}

// Gradients of what is there, in the dtypes of the parameters, by the statistics of the reference.
NormGrads backward(const Case& c, const Result& want, bool rms, bool sums = true, bool dx = true) {
  const auto like = [&](const Tensor& t) {
    return t && sums ? gpu_output(t.shape(), t.dtype()) : Tensor();
  };
  NormGrads g{dx ? gpu_output(c.x.shape(), c.x.dtype()) : Tensor(), like(c.p.weight),
              like(c.p.bias), like(c.p.scale), like(c.p.shift)};
  const Tensor mean = on_gpu(want.mean.to(DType::f32)), rstd = on_gpu(want.rstd.to(DType::f32));
  if (rms) {
    cuda::rms_norm_backward(c.x, c.p, rstd, c.dy, g);
  } else {
    cuda::layer_norm_backward(c.x, c.p, mean, rstd, c.dy, g);
  }
  return g;
}

NormGrads reference_backward(const Case& c, const Result& want, bool rms) {
  const auto like = [](const Tensor& t) {
    return t ? Tensor::empty(t.shape(), DType::f64) : Tensor();
  };
  NormGrads g{like(c.x64), like(c.p64.weight), like(c.p64.bias), like(c.p64.scale),
              like(c.p64.shift)};
  if (rms) {
    cpu::rms_norm_backward(c.x64, c.p64, want.rstd, c.dy64, g);
  } else {
    cpu::layer_norm_backward(c.x64, c.p64, want.mean, want.rstd, c.dy64, g);
  }
  return g;
}

void check_grad(const Tensor& got, const Tensor& want, const char* name) {
  INFO(name);
  REQUIRE(got.defined() == want.defined());
  if (got) check_close(got, want);
}

void check_case(const Case& c, bool rms) {
  INFO(concat(dtype_name(c.x.dtype()), rms ? ", RMS norm of " : ", layer norm of ", c.x.shape()));
  const Result got = forward(c, rms), want = reference(c, rms);
  check_close(got.y, want.y);
  check_close(got.rstd, want.rstd);
  if (!rms) check_close(got.mean, want.mean);
  const NormGrads g = backward(c, want, rms), e = reference_backward(c, want, rms);
  // One column: dx and dweight are 0 but for rounding.
  if (c.x.dim(1) > 1) {
    check_grad(g.dx, e.dx, "dx");
    check_grad(g.dweight, e.dweight, "dweight");
    check_grad(g.dscale, e.dscale, "dscale");
  }
  check_grad(g.dbias, e.dbias, "dbias");
  check_grad(g.dshift, e.dshift, "dshift");
}

// One size for every way a row is held (bf16, then f32), and odd ones.
constexpr int64_t kColumns[] = {1,    3,    8,    64,   128,  256,  300, 520,
                                1032, 1536, 2056, 3080, 4100, 8200, 9000};

}  // namespace

TEST_CASE("gpu: layer norm with every set of parameters") {
  for (const DType dtype : kGpuTypes)
    for (int parts = 0; parts < 16; ++parts)
      for (const DType params : {dtype, DType::f32})
        check_case(make_case(12, 72, 3, parts, dtype, params), false);
}

TEST_CASE("gpu: layer norm of any width") {
  for (const DType dtype : kGpuTypes)
    for (const int64_t columns : kColumns)
      check_case(make_case(4, columns, 2, columns % 16 ? 15 : kScale | kShift, dtype, dtype),
                 false);
}

TEST_CASE("gpu: RMS norm of any width") {
  for (const DType dtype : kGpuTypes)
    for (const int64_t columns : kColumns)
      check_case(make_case(3, columns, 1, columns == 1032 ? 0 : kWeight, dtype, dtype), true);
}

TEST_CASE("gpu: norms of many rows") {
  for (const DType dtype : kGpuTypes) {
    check_case(make_case(700, 64, 1, kWeight, dtype, dtype), true);
    check_case(make_case(130, 264, 2, kScale | kShift, dtype, DType::f32), false);
    check_case(make_case(60, 1032, 3, 15, dtype, dtype), false);
    check_case(make_case(34, 37, 2, 15, dtype, dtype), false);
  }
}

TEST_CASE("gpu: rows that are not aligned") {
  for (const DType dtype : kGpuTypes) {
    const Case whole = make_case(8, 64, 2, 15, dtype, dtype);
    Case c = whole;
    const auto shifted = [](const Tensor& t) {
      const Tensor room = gpu_output({t.numel() + 1}, t.dtype());
      const Tensor part = room.slice(0, 1, t.numel() + 1).view(t.shape());
      part.copy_from(t);
      return part;
    };
    c.x = shifted(c.x), c.dy = shifted(c.dy);
    check_case(c, false);
    c = whole;
    c.p.weight = shifted(c.p.weight);
    check_case(c, false);
  }
}

TEST_CASE("gpu: layer norm keeps precision far from zero") {
  const Tensor values = random_tensor({4, 256}, 1, DType::f64);
  cpu::scale_shift(1, 1000, values, values);
  Case c;
  c.x = on_gpu(values.to(DType::f32));
  c.x64 = values.to(DType::f32).to(DType::f64);
  // The rounding of the mean alone is 1000 2^-24 of a deviation of 1.
  check_close(forward(c, false).y, reference(c, false).y, 1e-4);
}

TEST_CASE("gpu: a row has the same bits in any batch, and in any run") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t columns : {64, 1536, 4096}) {
      INFO(concat(dtype_name(dtype), ", ", columns, " columns"));
      const Case all = make_case(20, columns, 2, kScale | kShift, dtype, dtype);
      const Result want = reference(all, false);
      Case one = all;  // the second group alone
      const auto second = [](const Tensor& t) { return t.slice(0, t.dim(0) / 2, t.dim(0)); };
      one.x = second(all.x), one.dy = second(all.dy);
      one.p.scale = second(all.p.scale), one.p.shift = second(all.p.shift);
      const Result f = forward(all, false), f1 = forward(one, false);
      CHECK(same_values(second(f.y), f1.y));
      CHECK(same_values(second(f.rstd), f1.rstd));
      CHECK(same_values(forward(all, false).y, f.y));
      const NormGrads g = backward(all, want, false), again = backward(all, want, false);
      const Result want1{{}, second(want.mean), second(want.rstd)};
      const NormGrads g1 = backward(one, want1, false);
      CHECK(same_values(second(g.dx), g1.dx));
      CHECK(same_values(second(g.dscale), g1.dscale));
      CHECK(same_values(second(g.dshift), g1.dshift));
      CHECK(same_values(again.dscale, g.dscale));
    }
  }
}

TEST_CASE("gpu: norm backward writes only what is asked for, with the same bits") {
  for (const int64_t columns : {64, 1000, 1536}) {
    const Case c = make_case(40, columns, 2, 15, DType::bf16, DType::f32);
    const Result want = reference(c, false);
    const NormGrads all = backward(c, want, false);
    CHECK(same_values(backward(c, want, false, false).dx, all.dx));
    CHECK(same_values(backward(c, want, false, true, false).dweight, all.dweight));
    NormGrads only;
    only.dshift = gpu_output({2, columns}, DType::bf16);  // its dtype need not be the parameter's
    cuda::layer_norm_backward(c.x, c.p, on_gpu(want.mean.to(DType::f32)),
                              on_gpu(want.rstd.to(DType::f32)), c.dy, only);
    CHECK(same_values(only.dshift, all.dshift.to(DType::bf16)));
  }
}

TEST_CASE("gpu: norms of nothing") {
  const Tensor x = gpu_output({0, 8}), none = gpu_output({0});
  const NormParams p{gpu_output({8}), {}, {}, {}, 1e-6};
  cuda::layer_norm(x, p, gpu_output({0, 8}), none, none);
  NormGrads g;
  g.dx = gpu_output({0, 8}), g.dweight = gpu_output({8});
  cuda::layer_norm_backward(x, p, none, none, gpu_output({0, 8}), g);
  check_close(g.dweight, Tensor::zeros({8}));
  g.dweight = gpu_output({8});
  cuda::rms_norm_backward(x, p, none, gpu_output({0, 8}), g);
  check_close(g.dweight, Tensor::zeros({8}));
}

TEST_CASE("gpu: norms refuse what does not fit") {
  const Tensor x = gpu_output({4, 8}, DType::bf16), rows = gpu_output({4});
  const auto layer = [&](const NormParams& p, const Tensor& y, const Tensor& mean) {
    return message_of([&] { cuda::layer_norm(x, p, y, mean, rows); });
  };
  CHECK(contains(layer({}, x, gpu_output({4}, DType::bf16)), "layer_norm: mean has dtype"));
  CHECK(contains(layer({}, gpu_output({4, 7}, DType::bf16), rows), "layer_norm: y has shape"));
  CHECK(contains(layer({}, Tensor::zeros({4, 8}, DType::bf16), rows), "operands lie on"));
  NormParams p;
  p.scale = gpu_output({3, 8}, DType::bf16);
  CHECK(contains(layer(p, x, rows), "G dividing 4 rows"));
  const Tensor wide = gpu_output({4, 8}, DType::f64), wide_rows = gpu_output({4}, DType::f64);
  CHECK(contains(message_of([&] { cuda::rms_norm(wide, {}, wide, wide_rows); }),
                 "expected dtype f32 or bf16"));
}

}  // namespace parlo::test
