// Rows of several adapters in one call of linear on a GPU.
#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_linear_cases.h"

namespace parlo::test {
namespace {

using Path = cuda::LinearPath;

// Segments that touch, that leave gaps, that share tiles; one is empty.
LinearCase several(int64_t rows, int64_t n, int64_t k, DType dtype) {
  LinearCase c = linear_case(rows, n, k, 0, dtype, dtype);
  c.rows.push_back(adapter_rows(c, 3, 20, 8, 10, 1.5));
  c.rows.push_back(adapter_rows(c, 23, 40, 24, 20, -0.5));
  c.rows.push_back(adapter_rows(c, 70, 0, 16, 30, 2));
  c.rows.push_back(adapter_rows(c, 70, rows - 75, 72, 40, 0.75));
  return c;
}

// Rows [begin, end) of a case, whose adapter is `low` or none, alone.
LinearResult run_alone(const LinearCase& c, int64_t begin, int64_t end, const LowRank* low) {
  LinearCase part = c;
  part.rows.clear();
  part.x = c.x.slice(0, begin, end);
  if (c.residual) part.residual = c.residual.slice(0, begin, end);
  part.gate.first += begin;
  if (low) part.a = low->a, part.b = low->b, part.scale = low->scale;
  return run_linear(cuda::linear, part);
}

void check_bits(const LinearCase& c, const LinearResult& whole, int64_t begin, int64_t end,
                const LowRank* low, const Tensor& down) {
  if (begin == end) return;
  INFO("rows ", begin, " .. ", end);
  const LinearResult alone = run_alone(c, begin, end, low);
  CHECK(same_gpu_bits(alone.y, whole.y.slice(0, begin, end)));
  CHECK(same_gpu_bits(alone.pre, whole.pre.slice(0, begin, end)));
  if (low) CHECK(same_gpu_bits(alone.down[0], down));
}

// Every segment and every gap has the bits that it has alone.
void check_alone(const LinearCase& c) {
  const LinearResult whole = run_linear(cuda::linear, c);
  int64_t row = 0;
  for (size_t i = 0; i < c.rows.size(); ++i) {
    const LowRankRows& s = c.rows[i];
    check_bits(c, whole, row, s.first, nullptr, {});
    row = s.first + s.rows;
    check_bits(c, whole, s.first, row, &s.low_rank, whole.down[i]);
  }
  check_bits(c, whole, row, c.x.dim(0), nullptr, {});
}

}  // namespace

TEST_CASE("gpu: several adapters in one batch, against the CPU") {
  for (const DType dtype : kGpuTypes) {
    for (const Activation f : {Activation::none, Activation::gelu_tanh}) {
      for (const int64_t rows : {100, 300}) {
        for (const int64_t n : {72, 70}) {
          for (const bool residual : {false, true}) {
            INFO("rows ", rows, ", n ", n, ", residual ", residual);
            LinearCase c = several(rows, n, 80, dtype);
            c.activation = f;
            if (!residual) c.residual = Tensor();
            compare(c, tolerance(dtype));
          }
        }
      }
    }
  }
}

TEST_CASE("gpu: a row of several adapters has the bits of its segment alone") {
  for (const DType dtype : kGpuTypes) {
    for (const Path path : {Path::automatic, Path::hopper, Path::library}) {
      for (const Activation f : {Activation::none, Activation::silu}) {
        const cuda::UseLinearPath use(path);
        LinearCase c = several(300, 136, 200, dtype);
        c.activation = f;
        check_alone(c);
        c.gate = {on_gpu(random_tensor({5, 136}, 70, dtype)), 64, 11};
        check_alone(c);
        c.residual = c.gate.values = Tensor();
        check_alone(c);
      }
    }
  }
}

TEST_CASE("gpu: a rank that one path lacks, beside others") {
  LinearCase c = several(200, 64, 64, DType::bf16);
  c.rows[1] = adapter_rows(c, 23, 40, 5, 20, 1.25);
  compare(c, tolerance(DType::bf16));
  check_alone(c);
}

TEST_CASE("gpu: more adapters than a launch takes") {
  LinearCase c = linear_case(150, 64, 72, 0, DType::bf16, DType::bf16);
  for (int i = 0; i < 19; ++i) {
    c.rows.push_back(adapter_rows(c, i * 7 + i / 5, 7, 8 + i % 3 * 8, 100 + 2 * i, 1 + i * 0.1));
  }
  compare(c, tolerance(DType::bf16));
  check_alone(c);
}

TEST_CASE("gpu: rows without an adapter do not see a broken one beside them") {
  LinearCase c = linear_case(64, 64, 64, 0, DType::bf16, DType::bf16);
  c.rows.push_back(adapter_rows(c, 10, 20, 16, 10, 1));
  c.rows[0].low_rank.b.fill(std::nan(""));
  const cuda::UseLinearPath use(Path::hopper);
  const LinearResult whole = run_linear(cuda::linear, c);
  check_bits(c, whole, 0, 10, nullptr, {});
  check_bits(c, whole, 30, 64, nullptr, {});
}

TEST_CASE("gpu: the gradient of linear's input, every segment as alone") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t n : {136, 72, 70}) {
      const int64_t rows = 300, k = 80;
      const LinearCase c = several(rows, n, k, dtype);
      const Tensor dy = on_gpu(random_tensor({rows, n}, 50, dtype));
      std::vector<LowRankRows> terms = c.rows, wanted;
      for (LowRankRows& s : terms) {
        s.low_rank.down = on_gpu(random_tensor({s.rows, s.low_rank.a.dim(0)}, 60, dtype));
        wanted.push_back(s);
        for (Tensor* t : {&wanted.back().low_rank.a, &wanted.back().low_rank.down}) {
          *t = t->to(Device{}).to(DType::f64);
        }
      }
      const Tensor want = Tensor::empty({rows, k}, DType::f64);
      cpu::linear_backward(dy.to(Device{}).to(DType::f64), c.w.to(Device{}).to(DType::f64), want,
                           wanted);
      for (const Path path : {Path::automatic, Path::hopper, Path::library}) {
        INFO("n ", n, ", path ", static_cast<int>(path));
        const cuda::UseLinearPath use(path);
        const Tensor dx = gpu_output({rows, k}, dtype);
        cuda::linear_backward(dy, c.w, dx, terms);
        check_close(dx, want, tolerance(dtype));
        for (LowRankRows s : terms) {
          const int64_t begin = s.first, end = begin + s.rows;
          const Tensor alone = gpu_output({s.rows, k}, dtype);
          s.first = 0;
          cuda::linear_backward(dy.slice(0, begin, end), c.w, alone, {&s, 1});
          CHECK(same_gpu_bits(alone, dx.slice(0, begin, end)));
        }
      }
    }
  }
}

TEST_CASE("gpu: faults of adapters of rows are named") {
  LinearCase c = linear_case(20, 8, 8, 0, DType::f32, DType::f32);
  const auto message = [&] { return message_of([&] { run_linear(cuda::linear, c); }); };
  c.rows = {adapter_rows(c, 5, 5, 4, 10, 1), adapter_rows(c, 9, 5, 4, 10, 1)};
  CHECK(contains(message(), "rows [9, 14) are not sorted, overlap"));
  c.rows = {adapter_rows(c, 15, 6, 4, 10, 1)};
  CHECK(contains(message(), "the 20 rows of x"));
  c.rows = {adapter_rows(c, 0, 6, 4, 10, 1)};
  c.a = on_gpu(random_tensor({4, 8}, 1, DType::f32)), c.b = c.a.clone();
  c.b = on_gpu(random_tensor({8, 4}, 1, DType::f32));
  CHECK(contains(message(), "expected one of them"));
}

}  // namespace parlo::test
