#include <cstring>

#include "kernels/matmul.h"
#include "tensor/cuda/runtime.h"
#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

constexpr Activation kActivations[] = {Activation::none, Activation::gelu_tanh,
                                       Activation::gelu_erf, Activation::quick_gelu,
                                       Activation::silu};

struct Case {
  Tensor x, w, bias, residual, a, b;
  Activation activation = Activation::none;
  double scale = 1;
  bool keep = true;  // pre-activation
};

struct Result {
  Tensor y, pre, down;
};

template <class Linear>
Result run(Linear&& linear, const Case& c) {
  Result r;
  const Device device = c.x.device();
  r.y = Tensor::full({c.x.dim(0), c.w.dim(0)}, std::nan(""), c.x.dtype(), device);
  LinearArgs args;
  LowRank low{c.a, c.b, c.scale, Tensor()};
  if (c.a) {
    low.down = r.down = Tensor::full({c.x.dim(0), c.a.dim(0)}, std::nan(""), c.x.dtype(), device);
    args.low_rank = &low;
  }
  if (c.keep) args.pre_activation = r.pre = r.y.clone();
  args.bias = c.bias, args.residual = c.residual;
  args.activation = c.activation;
  linear(c.x, c.w, r.y, args);
  return r;
}

// On the CPU in f64.
Case reference(const Case& c) {
  Case r = c;
  for (Tensor* t : {&r.x, &r.w, &r.bias, &r.residual, &r.a, &r.b}) {
    if (*t) *t = t->to(Device{}).to(DType::f64);
  }
  return r;
}

void compare(const Case& c, double limit) {
  const Result got = run(cuda::linear, c), want = run(cpu::linear, reference(c));
  check_close(got.y, want.y, limit);
  if (c.keep) check_close(got.pre, want.pre, limit);
  if (c.a) check_close(got.down, want.down, limit);
}

Case make(int64_t rows, int64_t n, int64_t k, int64_t rank, DType dtype, DType weight) {
  const auto random = [&](const Shape& shape, uint32_t seed, double scale = 1) {
    return on_gpu(random_tensor(shape, seed, dtype, scale));
  };
  Case c;
  c.x = random({rows, k}, 1);
  c.w = random({n, k}, 2, 0.2).to(weight);
  c.bias = random({n}, 3);
  c.residual = random({rows, n}, 4);
  if (rank > 0) {
    c.a = random({rank, k}, 5, 0.2), c.b = random({n, rank}, 6, 0.2);
    c.scale = 1.5;
  }
  return c;
}

bool same_bits(const Tensor& a, const Tensor& b) {
  const Tensor x = a.to(Device{}).contiguous(), y = b.to(Device{}).contiguous();
  return x.nbytes() == y.nbytes() &&
         (x.nbytes() == 0 || !std::memcmp(x.raw(), y.raw(), x.nbytes()));
}

}  // namespace

TEST_CASE("gpu: every activation with bias, residual and low rank") {
  for (const DType dtype : kGpuTypes) {
    for (const Activation f : kActivations) {
      for (const int64_t rank : {0, 1, 4, 8, 16, 24, 40, 64, 72}) {
        for (const int64_t n : {64, 70}) {
          INFO("activation ", static_cast<int>(f), ", rank ", rank, ", n ", n);
          Case c = make(37, n, 72, rank, dtype, dtype);
          c.activation = f;
          compare(c, tolerance(dtype));
        }
      }
    }
  }
}

TEST_CASE("gpu: each option alone") {
  for (const DType dtype : kGpuTypes) {
    for (const Activation f : {Activation::none, Activation::gelu_tanh, Activation::silu}) {
      for (int options = 0; options < 16; ++options) {
        INFO("activation ", static_cast<int>(f), ", options ", options);
        Case c = make(19, 40, 32, options & 8 ? 16 : 0, dtype, dtype);
        c.activation = f;
        c.keep = options & 1;
        if (!(options & 2)) c.bias = Tensor();
        if (!(options & 4)) c.residual = Tensor();
        compare(c, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("gpu: odd sizes and nothing to do") {
  const int64_t sizes[][3] = {{1, 1, 1},    {1, 96, 64},    {5, 48, 16},    {100, 8, 64},
                              {70, 16, 33}, {0, 8, 8},      {8, 0, 8},      {6, 7, 0},
                              {6, 64, 0},   {33, 72, 1000}, {130, 264, 136}};
  for (const DType dtype : kGpuTypes) {
    for (const auto& [rows, n, k] : sizes) {
      for (const int64_t rank : {0, 4, 16}) {
        INFO("rows ", rows, " n ", n, " k ", k, " rank ", rank);
        Case c = make(rows, n, k, rank, dtype, dtype);
        c.activation = Activation::quick_gelu;
        compare(c, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("gpu: bf16 weights under f32 inputs") {
  for (const int64_t rank : {0, 8}) {
    Case c = make(37, 72, 65, rank, DType::f32, DType::bf16);
    // Inputs rounded to bf16: a relative error of 2^-9 each.
    compare(c, tolerance(DType::bf16));
    c.x = c.x.to(DType::bf16).to(DType::f32);
    compare(c, tolerance(DType::f32));
  }
}

TEST_CASE("gpu: f32 factors and bias under bf16 inputs are rounded") {
  Case c = make(37, 72, 64, 16, DType::bf16, DType::bf16);
  c.a = on_gpu(random_tensor({16, 64}, 5, DType::f32, 0.2));
  c.b = on_gpu(random_tensor({72, 16}, 6, DType::f32, 0.2));
  c.bias = on_gpu(random_tensor({72}, 3, DType::f32));
  compare(c, tolerance(DType::bf16));
}

TEST_CASE("gpu: the residual may be the output itself") {
  for (const DType dtype : kGpuTypes) {
    for (const Activation f : {Activation::none, Activation::silu}) {
      Case c = make(33, 50, 40, 0, dtype, dtype);
      c.activation = f;
      const Result want = run(cpu::linear, reference(c));
      LinearArgs args;
      args.activation = f;
      args.bias = c.bias, args.residual = c.residual;
      cuda::linear(c.x, c.w, c.residual, args);
      check_close(c.residual, want.y, tolerance(dtype));
    }
  }
}

TEST_CASE("gpu: slices that start at no 16-byte boundary") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t rank : {0, 16}) {
      Case c = make(21, 64, 32, rank, dtype, dtype);
      c.activation = Activation::silu;
      const auto shifted = [&](const Tensor& t) {
        const Tensor room = Tensor::empty({t.numel() + 1}, t.dtype(), kGpu);
        const Tensor out = room.slice(0, 1, t.numel() + 1).view(t.shape());
        out.copy_from(t);
        return out;
      };
      for (Tensor* t : {&c.x, &c.w, &c.bias, &c.residual, &c.a, &c.b}) {
        if (*t) *t = shifted(*t);
      }
      compare(c, tolerance(dtype));
    }
  }
}

TEST_CASE("gpu: a row of linear has the same bits alone and inside any batch") {
  // Many enough rows for the launches that large batches get.
  const int64_t rows = 64 * cuda::properties(kGpu).multiprocessors + 50;
  for (const DType dtype : kGpuTypes) {
    for (const int64_t rank : {0, 8, 32}) {
      Case c = make(rows, 40, 600, rank, dtype, dtype);
      c.activation = Activation::gelu_tanh;
      const Result whole = run(cuda::linear, c), again = run(cuda::linear, c);
      CHECK(same_bits(whole.y, again.y));
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {13, 14}, {30, 70}}) {
        Case part = c;
        part.x = c.x.slice(0, begin, end), part.residual = c.residual.slice(0, begin, end);
        const Result got = run(cuda::linear, part);
        CHECK(same_bits(got.y, whole.y.slice(0, begin, end)));
        CHECK(same_bits(got.pre, whole.pre.slice(0, begin, end)));
        if (rank > 0) CHECK(same_bits(got.down, whole.down.slice(0, begin, end)));
      }
    }
  }
}

TEST_CASE("gpu: faults of linear are named") {
  const Tensor x = gpu_output({2, 3}), w = gpu_output({4, 3}), y = gpu_output({2, 4});
  LinearArgs args;
  args.bias = Tensor::zeros({5});
  CHECK(contains(message_of([&] { cuda::linear(x, w, y, args); }), "bias"));
  args.bias = Tensor::zeros({4});
  CHECK(contains(message_of([&] { cuda::linear(x, w, y, args); }), "operands lie on cuda:0"));
  const Tensor wide = Tensor::zeros({2, 2}, DType::f64, kGpu);
  CHECK(contains(message_of([&] { cuda::linear(wide, wide, wide); }),
                 "linear: expected dtype f32 or bf16"));
}

}  // namespace parlo::test
