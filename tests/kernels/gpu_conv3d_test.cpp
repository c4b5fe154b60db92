#include "tests/kernels/conv3d_support.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

struct Operands {
  Tensor x, w, bias, residual, dy;
};

Operands on_gpu(const Conv3dProblem& p) {
  return {test::on_gpu(p.x), test::on_gpu(p.w), test::on_gpu(p.bias), test::on_gpu(p.residual),
          test::on_gpu(p.dy)};
}

Tensor forward(const Operands& o, const Conv3dArgs& args) {
  const Tensor y = gpu_output(o.dy.shape(), o.x.dtype());
  cuda::conv3d(o.x, o.w, o.bias, o.residual, y, args);
  return y;
}

struct Gradients {
  Tensor dx, dw, dbias;
};

Gradients backward(const Operands& o, const Conv3dArgs& args) {
  const DType dtype = o.x.dtype();
  const Gradients g{gpu_output(o.x.shape(), dtype), gpu_output(o.w.shape(), dtype),
                    gpu_output({o.w.dim(0)}, dtype)};
  cuda::conv3d_backward(o.x, o.w, o.dy, g.dx, g.dw, g.dbias, args);
  return g;
}

void check_problem(const Conv3dProblem& p, const Operands& o) {
  const auto wide = [](const Tensor& t) { return t ? t.to(DType::f64) : t; };
  const auto like = [](const Tensor& t) { return Tensor::empty(t.shape(), DType::f64); };
  const double limit = tolerance(p.x.dtype());
  const Tensor y = like(p.dy);
  cpu::conv3d(wide(p.x), wide(p.w), wide(p.bias), wide(p.residual), y, p.args);
  check_close(forward(o, p.args), y, limit);
  const Gradients want{like(p.x), like(p.w), Tensor::empty({p.w.dim(0)}, DType::f64)};
  cpu::conv3d_backward(wide(p.x), wide(p.w), wide(p.dy), want.dx, want.dw, want.dbias, p.args);
  const Gradients got = backward(o, p.args);
  check_close(got.dx, want.dx, limit);
  check_close(got.dw, want.dw, limit);
  check_close(got.dbias, want.dbias, limit);
}

// More channels than the small tile has, on both sides.
Conv3dCase wide_case() {
  return {2, 40, 48, {2, 2, 8}, {3, 3, 3}, causal_conv3d(3)};
}

}  // namespace

TEST_CASE("gpu: conv3d and its gradients") {
  for (const DType dtype : kGpuTypes) {
    std::vector<Conv3dCase> cases = conv3d_cases();
    cases.push_back(wide_case());
    cases.push_back({1, 72, 70, {1, 2, 3}, {1, 1, 1}, {}});  // more than a tile of channels
    for (const Conv3dCase& c : cases) {
      INFO(dtype_name(dtype), " in ", c.in, " out ", c.out, " taps ", c.kernel[0], " x ",
           c.kernel[1], " x ", c.kernel[2]);
      const Conv3dProblem p = make_conv3d(c, dtype);
      check_problem(p, on_gpu(p));
    }
  }
}

TEST_CASE("gpu: conv3d of any alignment, without bias and residual") {
  for (const DType dtype : kGpuTypes) {
    Conv3dProblem p = make_conv3d(wide_case(), dtype);
    Operands o = on_gpu(p);
    for (Tensor* t : {&o.x, &o.w, &o.bias, &o.residual, &o.dy}) *t = shifted(*t);
    CHECK(same_gpu_bits(forward(o, p.args), forward(on_gpu(p), p.args)));
    p.bias = p.residual = Tensor();
    check_problem(p, on_gpu(p));
  }
}

// Channels side by side are read where they lie, also in rows that are part of longer ones.
TEST_CASE("gpu: conv3d of rows of channels") {
  for (const DType dtype : kGpuTypes) {
    const Conv3dProblem p = make_conv3d(wide_case(), dtype);
    Operands o = on_gpu(p);
    const Tensor want = forward(o, p.args);
    const Tensor rows = Tensor::full({2, 2, 2, 8, 56}, std::nan(""), dtype, kGpu);
    const Tensor part = rows.slice(4, 8, 48).permute({0, 4, 1, 2, 3});
    part.copy_from(o.x);
    o.x = part;
    CHECK(same_gpu_bits(forward(o, p.args), want));
    o.x = on_gpu(p).x.permute({0, 2, 3, 4, 1}).contiguous().permute({0, 4, 1, 2, 3});
    CHECK(same_gpu_bits(forward(o, p.args), want));
  }
}

TEST_CASE("gpu: a volume has the same bits alone and inside any batch") {
  for (const DType dtype : kGpuTypes) {
    for (const Conv3dCase& c : {conv3d_cases()[0], wide_case()}) {
      const Conv3dProblem p = make_conv3d(c, dtype);
      const Operands all = on_gpu(p);
      Operands one = all;
      for (Tensor* t : {&one.x, &one.residual, &one.dy}) *t = t->slice(0, 1, 2);
      CHECK(same_gpu_bits(forward(one, p.args), forward(all, p.args).slice(0, 1, 2)));
      const Gradients g = backward(all, p.args);
      CHECK(same_gpu_bits(backward(one, p.args).dx, g.dx.slice(0, 1, 2)));
      CHECK(same_gpu_bits(backward(all, p.args).dw, g.dw));
    }
  }
}

TEST_CASE("gpu: conv3d refuses what it cannot take") {
  const Conv3dProblem p = make_conv3d(conv3d_cases()[0], DType::f32);
  const Operands o = on_gpu(p);
  const auto message = [&](const Tensor& residual) {
    return message_of([&] { cuda::conv3d(o.x, o.w, o.bias, residual, o.dy, p.args); });
  };
  CHECK(contains(message(p.residual), "operands lie on"));
  CHECK(contains(message(o.x), "conv3d: residual has shape"));
}

}  // namespace parlo::test
