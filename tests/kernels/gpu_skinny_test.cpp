// skinny_linear on a GPU against the CPU's linear in f64, and that a row has the same bits for any
// number of rows.
#include "kernels/skinny.h"

#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

struct Case {
  Tensor x, w, bias, residual, a, b;
  Activation activation = Activation::none;
};

Case make(int64_t rows, int64_t n, int64_t k, int64_t rank, DType dtype, DType weight) {
  const auto random = [&](const Shape& shape, uint32_t seed, double scale = 1) {
    return random_tensor(shape, seed, dtype, scale);
  };
  Case c{random({rows, k}, 1), random({n, k}, 2, 0.2).to(weight), {}, {}, {}, {}};
  c.bias = random({n}, 3), c.residual = random({rows, n}, 4);
  if (rank >= 0) c.a = random({rank, k}, 5, 0.2), c.b = random({n, rank}, 6, 0.2);
  return c;
}

template <class Fn>
Case each(const Case& c, Fn fn) {
  return {fn(c.x), fn(c.w), fn(c.bias), fn(c.residual), fn(c.a), fn(c.b), c.activation};
}

template <class Linear>
Tensor run(Linear&& linear, const Case& c, const Tensor& y, const Tensor& down = {}) {
  LinearArgs args;
  const LowRank low{c.a, c.b, 1.5, down};
  if (c.a) args.low_rank = &low;
  args.bias = c.bias, args.residual = c.residual, args.activation = c.activation;
  linear(c.x, c.w, y, args);
  return y;
}
Tensor run_gpu(const Case& c) {  // c on the GPU
  return run(cuda::skinny_linear, c, gpu_output({c.x.dim(0), c.w.dim(0)}, c.x.dtype()));
}
Tensor run_cpu(const Case& c) {
  const Case plain = each(c, [](const Tensor& t) { return t ? t.to(DType::f64) : t; });
  return run(cpu::skinny_linear, plain, Tensor::empty({c.x.dim(0), c.w.dim(0)}, DType::f64));
}

void compare(const Case& c) {
  INFO(dtype_name(c.x.dtype()), " x ", dtype_name(c.w.dtype()), ": rows ", c.x.dim(0), " n ",
       c.w.dim(0), " k ", c.x.dim(1), " rank ", c.a ? c.a.dim(0) : -1);
  check_close(run_gpu(each(c, on_gpu)), run_cpu(c), tolerance(c.x.dtype()));
}

struct Types {
  DType x, w;
};
constexpr Types kTypes[] = {
    {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::f32, DType::bf16}};

}  // namespace

TEST_CASE("gpu: skinny linear of odd sizes, with and without a low-rank term") {
  const int64_t sizes[][3] = {{1, 1, 1},   {1, 40, 64},  {2, 33, 8},   {4, 7, 100}, {5, 16, 72},
                              {9, 50, 40}, {16, 20, 33}, {17, 3, 600}, {33, 17, 24}};
  for (const Types t : kTypes) {
    for (const auto& [rows, n, k] : sizes) {
      for (const int64_t rank : {-1, 3, 16}) compare(make(rows, n, k, rank, t.x, t.w));
    }
  }
}

TEST_CASE("gpu: skinny linear with every activation, and each option alone") {
  for (const Types t : kTypes) {
    for (const Activation f : {Activation::none, Activation::gelu_tanh, Activation::gelu_erf,
                               Activation::quick_gelu, Activation::silu}) {
      Case c = make(3, 18, 24, 4, t.x, t.w);
      c.activation = f;
      compare(c);
    }
    for (int options = 0; options < 8; ++options) {
      Case c = make(2, 18, 24, options & 4 ? 4 : -1, t.x, t.w);
      if (!(options & 1)) c.bias = {};
      if (!(options & 2)) c.residual = {};
      compare(c);
    }
  }
}

TEST_CASE("gpu: skinny linear with rows enough for wide blocks") {
  const int64_t n = 4 * 32 * cuda::properties(kGpu).multiprocessors + 5;
  const Case c = make(3, n, 8, -1, DType::bf16, DType::bf16);
  compare(c);
  Case part = each(c, on_gpu);  // narrow blocks give the same bits
  const Tensor all = run_gpu(part);
  part.w = part.w.slice(0, 0, 40), part.bias = part.bias.slice(0, 0, 40);
  part.residual = part.residual.slice(1, 0, 40).contiguous();
  CHECK(same_gpu_bits(run_gpu(part), all.slice(1, 0, 40)));
}

TEST_CASE("gpu: a row of skinny linear has the same bits for any number of rows") {
  for (const Types t : kTypes) {
    for (const int64_t k : {600, 75}) {
      const Case c = each(make(40, 20, k, 4, t.x, t.w), on_gpu);
      const Tensor all = run_gpu(c);
      CHECK(same_gpu_bits(run_gpu(c), all));
      for (const auto& [begin, end] :
           {std::pair<int64_t, int64_t>{0, 1}, {39, 40}, {7, 10}, {30, 38}, {3, 19}, {5, 28}}) {
        Case part = c;
        part.x = c.x.slice(0, begin, end), part.residual = c.residual.slice(0, begin, end);
        CHECK(same_gpu_bits(run_gpu(part), all.slice(0, begin, end)));
      }
    }
  }
}

TEST_CASE("gpu: skinny linear where nothing starts on 16 bytes, and into the residual itself") {
  for (const Types t : kTypes) {
    Case c = make(6, 20, 32, 8, t.x, t.w);
    const Tensor want = run_cpu(c);
    const Case there = each(each(c, on_gpu), [](const Tensor& x) { return shifted(x); });
    check_close(run_gpu(there), want, tolerance(t.x));
    const Tensor down = gpu_output({6, 8}, t.x);
    run(cuda::skinny_linear, there, there.residual, down);
    check_close(there.residual, want, tolerance(t.x));
    CHECK(std::isfinite(down.to_vector()[47]));
  }
}

TEST_CASE("gpu: skinny linear with nothing to do, factors of another dtype, and faults") {
  const int64_t sizes[][3] = {{0, 8, 8}, {3, 0, 8}, {3, 5, 0}};
  for (const Types t : kTypes) {
    for (const auto& [rows, n, k] : sizes) {
      for (const int64_t rank : {-1, 0, 4}) compare(make(rows, n, k, rank, t.x, t.w));
    }
  }
  Case c = make(3, 20, 16, 4, DType::bf16, DType::bf16);
  c.a = c.a.to(DType::f32), c.b = c.b.to(DType::f32), c.bias = c.bias.to(DType::f32);
  compare(c);

  const Tensor x = gpu_output({2, 3}), w = gpu_output({4, 3}), y = gpu_output({2, 4});
  LinearArgs args;
  args.bias = Tensor::zeros({4});
  const auto fault = [&] { return message_of([&] { cuda::skinny_linear(x, w, y, args); }); };
  CHECK(contains(fault(), "operands lie on cuda:0"));
  args.bias = {}, args.pre_activation = y;
  CHECK(contains(fault(), "pre_activation"));
  const Tensor wide = Tensor::zeros({2, 2}, DType::f64, kGpu);
  CHECK(contains(message_of([&] { cuda::skinny_linear(wide, wide, wide); }), "f32 or bf16"));
}

}  // namespace parlo::test
