#include "kernels/cuda/linear_path.h"
#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_linear_cases.h"

namespace parlo::test {

TEST_CASE("gpu: every activation with bias, residual and low rank") {
  for (const DType dtype : kGpuTypes) {
    for (const Activation f : kActivations) {
      for (const int64_t rank : {0, 1, 4, 8, 16, 24, 40, 64, 72}) {
        for (const int64_t n : {64, 70}) {
          INFO("activation ", static_cast<int>(f), ", rank ", rank, ", n ", n);
          LinearCase c = linear_case(37, n, 72, rank, dtype, dtype);
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
        LinearCase c = linear_case(19, 40, 32, options & 8 ? 16 : 0, dtype, dtype);
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
        LinearCase c = linear_case(rows, n, k, rank, dtype, dtype);
        c.activation = Activation::quick_gelu;
        compare(c, tolerance(dtype));
      }
    }
  }
}

TEST_CASE("gpu: bf16 weights under f32 inputs") {
  for (const int64_t rank : {0, 8}) {
    LinearCase c = linear_case(37, 72, 65, rank, DType::f32, DType::bf16);
    // Inputs rounded to bf16: a relative error of 2^-9 each.
    compare(c, tolerance(DType::bf16));
    c.x = c.x.to(DType::bf16).to(DType::f32);
    compare(c, tolerance(DType::f32));
  }
}

TEST_CASE("gpu: f32 factors and bias under bf16 inputs are rounded") {
  LinearCase c = linear_case(37, 72, 64, 16, DType::bf16, DType::bf16);
  c.a = on_gpu(random_tensor({16, 64}, 5, DType::f32, 0.2));
  c.b = on_gpu(random_tensor({72, 16}, 6, DType::f32, 0.2));
  c.bias = on_gpu(random_tensor({72}, 3, DType::f32));
  compare(c, tolerance(DType::bf16));
}

TEST_CASE("gpu: the residual may be the output itself") {
  for (const DType dtype : kGpuTypes) {
    for (const Activation f : {Activation::none, Activation::silu}) {
      LinearCase c = linear_case(33, 50, 40, 0, dtype, dtype);
      c.activation = f;
      const LinearResult want = run_linear(cpu::linear, reference(c));
      LinearArgs args;
      args.activation = f;
      args.bias = c.bias, args.residual = c.residual;
      cuda::linear(c.x, c.w, c.residual, args);
      check_close(c.residual, want.y, tolerance(dtype));
    }
  }
}

TEST_CASE("gpu: a gate that rows share") {
  for (const DType dtype : kGpuTypes) {
    for (const auto& [gates, rows, first] :
         {std::tuple{1, 200, 0}, {5, 30, 0}, {6, 30, 17}, {150, 1, 0}}) {
      for (const int64_t n : {72, 71}) {
        INFO("gates ", gates, " of ", rows, " rows from ", first, ", n ", n);
        LinearCase c = linear_case(150, n, 40, n == 72 ? 8 : 0, dtype, dtype);
        c.activation = gates == 5 ? Activation::silu : Activation::none;
        // One of several parts of wider rows, as modulation gives them.
        const Tensor wide = on_gpu(random_tensor({gates, 3 * n}, 7, dtype));
        c.gate = {wide.slice(1, n, 2 * n), rows, first};
        compare(c, tolerance(dtype));
        c.keep = false;
        const LinearResult want = run_linear(cuda::linear, c);
        LinearArgs args;
        const LowRank low{c.a, c.b, c.scale, {}};
        if (c.a) args.low_rank = &low;
        args.bias = c.bias, args.activation = c.activation, args.gate = c.gate;
        args.residual = c.residual;
        cuda::linear(c.x, c.w, c.residual, args);  // in place
        CHECK(same_gpu_bits(c.residual, want.y));
      }
    }
  }
}

TEST_CASE("gpu: slices that start at no 16-byte boundary") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t rank : {0, 16}) {
      LinearCase c = linear_case(21, 64, 32, rank, dtype, dtype);
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
      LinearCase c = linear_case(rows, 40, 600, rank, dtype, dtype);
      c.activation = Activation::gelu_tanh;
      const LinearResult whole = run_linear(cuda::linear, c), again = run_linear(cuda::linear, c);
      CHECK(same_gpu_bits(whole.y, again.y));
      for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {13, 14}, {30, 70}}) {
        LinearCase part = c;
        part.x = c.x.slice(0, begin, end), part.residual = c.residual.slice(0, begin, end);
        const LinearResult got = run_linear(cuda::linear, part);
        CHECK(same_gpu_bits(got.y, whole.y.slice(0, begin, end)));
        CHECK(same_gpu_bits(got.pre, whole.pre.slice(0, begin, end)));
        if (rank > 0) CHECK(same_gpu_bits(got.down[0], whole.down[0].slice(0, begin, end)));
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
