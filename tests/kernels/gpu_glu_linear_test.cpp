// glu_linear on a GPU against the CPU in f64: fused on Hopper, and linear with glu behind it.
#include "kernels/glu_linear.h"

#include "kernels/cuda/gemm_sm90.h"
#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_linear_cases.h"

namespace parlo::test {
namespace {

using Path = cuda::LinearPath;

struct GluResult {
  Tensor y, halves;
  std::vector<Tensor> down;
};

template <class GluLinear>
GluResult run_glu(GluLinear&& glu_linear, const LinearCase& c) {
  GluResult r;
  r.y = nans_for(c, c.x.dim(0), c.w.dim(0) / 2);
  GluLinearArgs args;
  const CaseTerms terms(c);
  terms.join(args);
  r.down = terms.down;
  args.bias = c.bias;
  if (c.keep) args.halves = r.halves = nans_for(c, c.x.dim(0), c.w.dim(0));
  glu_linear(c.activation, c.x, c.w, r.y, args);
  return r;
}

LinearCase glu_case(int64_t rows, int64_t F, int64_t k, int64_t rank, DType dtype) {
  LinearCase c = linear_case(rows, 2 * F, k, rank, dtype, dtype);
  c.residual = Tensor(), c.activation = Activation::silu;
  return c;
}

// By each path that there is for the dtype; y has the same bits where the halves are not kept.
void compare_glu(const LinearCase& c) {
  const double limit = tolerance(c.x.dtype());
  const GluResult want = run_glu(cpu::glu_linear, reference(c));
  for (const Path path : {Path::automatic, Path::library}) {
    if (path != Path::automatic && c.x.dtype() != DType::bf16) continue;
    INFO("path ", static_cast<int>(path), ", rows ", c.x.dim(0), ", w ", c.w.shape());
    const cuda::UseLinearPath use(path);
    const GluResult got = run_glu(cuda::glu_linear, c);
    check_close(got.y, want.y, limit);
    check_close(got.halves, want.halves, limit);
    for (size_t i = 0; i < want.down.size(); ++i) check_close(got.down[i], want.down[i], limit);
    LinearCase alone = c;
    alone.keep = false;
    CHECK(same_gpu_bits(run_glu(cuda::glu_linear, alone).y, got.y));
  }
}

// Rows [begin, end) of a case with the adapter `low`, or none, have the bits of `whole`.
void check_rows(const LinearCase& c, const GluResult& whole, int64_t begin, int64_t end,
                const LowRank* low) {
  INFO("rows ", begin, " .. ", end);
  LinearCase part = c;
  part.rows.clear();
  part.x = c.x.slice(0, begin, end);
  if (low) part.a = low->a, part.b = low->b, part.scale = low->scale;
  const GluResult alone = run_glu(cuda::glu_linear, part);
  CHECK(same_gpu_bits(alone.y, whole.y.slice(0, begin, end)));
  CHECK(same_gpu_bits(alone.halves, whole.halves.slice(0, begin, end)));
}

}  // namespace

TEST_CASE("gpu: glu_linear at the edges of tiles and stages") {
  const int64_t sizes[][3] = {{1, 8, 8},     {128, 64, 64},   {129, 72, 72},
                              {70, 136, 40}, {130, 200, 136}, {5, 13, 24}};
  for (const DType dtype : kGpuTypes) {
    for (const auto& [rows, F, k] : sizes) {
      LinearCase c = glu_case(rows, F, k, 0, dtype);
      compare_glu(c);
      c.bias = Tensor(), c.activation = Activation::gelu_tanh;
      compare_glu(c);
    }
  }
}

TEST_CASE("gpu: glu_linear of every activation, with a low rank of all rows") {
  for (const DType dtype : kGpuTypes) {
    for (const Activation f : kActivations) {
      LinearCase c = glu_case(35, 24, 40, f == Activation::gelu_erf ? 5 : 8, dtype);
      c.activation = f;
      compare_glu(c);
    }
  }
}

TEST_CASE("gpu: glu_linear with wide tiles, low-rank terms of rows and rows alone") {
  LinearCase c = glu_case(140, 128, 2048, 0, DType::bf16);
  c.w = on_gpu(random_tensor({256, 2048}, 2, DType::bf16, 0.02));
  c.rows = {adapter_rows(c, 5, 50, 16, 10, 0.5), adapter_rows(c, 60, 80, 136, 20, 0.25)};
  compare_glu(c);
  const GluResult whole = run_glu(cuda::glu_linear, c);
  check_rows(c, whole, 0, 5, nullptr);
  check_rows(c, whole, 5, 55, &c.rows[0].low_rank);
  check_rows(c, whole, 60, 140, &c.rows[1].low_rank);
}

TEST_CASE("gpu: rows of glu_linear have the bits of their segment alone") {
  for (const DType dtype : kGpuTypes) {
    for (const Path path : {Path::automatic, Path::library}) {
      const cuda::UseLinearPath use(path);
      LinearCase c = glu_case(200, 72, 72, 0, dtype);
      c.rows = {adapter_rows(c, 3, 20, 8, 10, 1.5), adapter_rows(c, 23, 40, 5, 20, -0.5),
                adapter_rows(c, 70, 0, 16, 30, 2), adapter_rows(c, 70, 125, 72, 40, 0.75)};
      const GluResult whole = run_glu(cuda::glu_linear, c);
      for (const LowRankRows& s : c.rows) {
        if (s.rows > 0) check_rows(c, whole, s.first, s.first + s.rows, &s.low_rank);
      }
      check_rows(c, whole, 63, 70, nullptr);
      check_rows(c, whole, 197, 198, nullptr);
      compare_glu(c);
    }
  }
}

TEST_CASE("gpu: glu_linear with more adapters than a launch takes") {
  LinearCase c = glu_case(150, 40, 72, 0, DType::bf16);
  for (int i = 0; i < 19; ++i) {
    c.rows.push_back(adapter_rows(c, i * 7 + i / 5, 7, 8 + i % 3 * 8, 100 + 2 * i, 1 + i * 0.1));
  }
  compare_glu(c);
}

TEST_CASE("gpu: glu_linear under a bf16 weight in f32") {
  LinearCase c = glu_case(9, 16, 24, 3, DType::f32);
  c.w = c.w.to(DType::bf16);
  const GluResult want = run_glu(cpu::glu_linear, reference(c)), got = run_glu(cuda::glu_linear, c);
  check_close(got.y, want.y, tolerance(DType::bf16));
  check_close(got.halves, want.halves, tolerance(DType::bf16));
}

TEST_CASE("gpu: glu_linear of nothing, and what it refuses") {
  for (const auto& [rows, F, k] : {std::tuple{0, 8, 8}, {8, 0, 8}, {8, 8, 0}}) {
    for (const DType dtype : kGpuTypes) compare_glu(glu_case(rows, F, k, 0, dtype));
  }
  LinearCase c = glu_case(4, 8, 8, 0, DType::f32);
  c.bias = c.bias.to(Device{});
  const auto message = [&] { return message_of([&] { run_glu(cuda::glu_linear, c); }); };
  CHECK(contains(message(), "glu_linear: operands lie on"));
  c = glu_case(4, 8, 8, 0, DType::f32);
  c.w = c.w.slice(0, 0, 15);
  c.bias = Tensor();
  CHECK(contains(message(), "glu_linear: w has shape (15, 8), expected [2 F, K]"));
}

TEST_CASE("gpu: the Hopper product takes a gated linear unit whole") {
  const LinearCase c = glu_case(9, 16, 16, 0, DType::bf16);
  const cuda::Properties& gpu = cuda::properties(kGpu);
  cuda::HopperProduct p{c.x, c.w, gpu_output({9, 16}, DType::bf16), false, {}, true};
  CHECK(cuda::takes_gemm_sm90(p) == (gpu.major == 9 && gpu.minor == 0));
  p.y = gpu_output({9, 12}, DType::bf16);
  p.w = c.w.slice(0, 0, 24);
  CHECK(!cuda::takes_gemm_sm90(p));
}

}  // namespace parlo::test
