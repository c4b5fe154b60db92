// The Hopper product itself: tiles, ring, epilogue, and w turned; linear's tests cover the rest.
#include "kernels/cuda/gemm_sm90.h"
#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_linear_cases.h"

namespace parlo::test {
namespace {

bool has_kernel() {
  const cuda::Properties& gpu = cuda::properties(kGpu);
  return gpu.major == 9 && gpu.minor == 0;
}

struct Product {
  LinearCase c;
  Tensor y, pre;
  std::vector<LowRankRows> rows;

  cuda::HopperProduct args(bool turned) {
    y = gpu_output({c.x.dim(0), c.w.dim(0)}, DType::bf16), pre = y.clone();
    rows = c.rows;
    for (LowRankRows& s : rows) {
      LowRank& low = s.low_rank;
      low.down = gpu_output({s.rows, low.a.dim(0)}, DType::bf16);
      cuda::matmul(c.x.slice(0, s.first, s.first + s.rows), false, low.a, true, low.down);
      if (turned) low.b = low.b.transpose(0, 1).contiguous();
    }
    cuda::HopperProduct p{c.x, turned ? c.w.transpose(0, 1).contiguous() : c.w, y, turned, {}};
    p.args.bias = c.bias, p.args.residual = c.residual, p.args.activation = c.activation;
    if (c.keep) p.args.pre_activation = pre;
    p.args.low_rank_rows = rows;
    return p;
  }
};

void check_product(const LinearCase& c) {
  const LinearResult want = run_linear(cpu::linear, reference(c));
  for (const bool turned : {false, true}) {
    if (turned && c.w.dim(0) % 8 != 0) continue;
    INFO("rows ", c.x.dim(0), " n ", c.w.dim(0), " k ", c.x.dim(1), " turned ", turned);
    Product product{c, {}, {}, {}};
    const cuda::HopperProduct p = product.args(turned);
    REQUIRE(cuda::takes_gemm_sm90(p));
    cuda::gemm_sm90(p);
    check_close(product.y, want.y, tolerance(DType::bf16));
    if (c.keep) check_close(product.pre, want.pre, tolerance(DType::bf16));
  }
}

}  // namespace

TEST_CASE("gpu: the Hopper product at the edges of tiles and stages") {
  if (!has_kernel()) return;
  const int64_t sizes[][3] = {{1, 8, 8},       {128, 128, 64}, {129, 136, 72},
                              {130, 264, 200}, {64, 120, 448}, {300, 392, 136}};
  for (const auto& [rows, n, k] : sizes) {
    LinearCase c = linear_case(rows, n, k, 0, DType::bf16, DType::bf16);
    c.activation = Activation::gelu_tanh;
    check_product(c);
    c.bias = c.residual = Tensor(), c.activation = Activation::none, c.keep = false;
    check_product(c);
  }
}

TEST_CASE("gpu: the Hopper product with wide tiles and low-rank terms") {
  if (!has_kernel()) return;
  LinearCase c = linear_case(140, 256, 2048, 0, DType::bf16, DType::bf16);
  c.rows = {adapter_rows(c, 5, 50, 16, 10, 1.5), adapter_rows(c, 60, 80, 136, 20, 0.5)};
  c.activation = Activation::silu;
  check_product(c);
}

TEST_CASE("gpu: blocks of the Hopper product that have several tiles") {
  if (!has_kernel()) return;
  const int64_t tiles = 2 * cuda::properties(kGpu).multiprocessors + 3;
  if (tiles > 64) return;  // of the simulator; a GPU takes large products elsewhere
  LinearCase c = linear_case(128 * tiles / 2, 256, 72, 0, DType::bf16, DType::bf16);
  c.rows = {adapter_rows(c, 100, 500, 16, 10, 1.5)};
  check_product(c);
}

TEST_CASE("gpu: the Hopper product refuses what it cannot do") {
  LinearCase c = linear_case(9, 16, 16, 0, DType::bf16, DType::bf16);
  c.rows = {adapter_rows(c, 0, 9, 8, 10, 1)};
  Product product{c, {}, {}, {}};
  const cuda::HopperProduct good = product.args(false);
  CHECK(cuda::takes_gemm_sm90(good) == has_kernel());
  cuda::HopperProduct p = good;
  p.x = p.x.to(DType::f32);
  CHECK(!cuda::takes_gemm_sm90(p));
  p = good, p.args.residual = shifted(p.args.residual);
  CHECK(!cuda::takes_gemm_sm90(p));
  p = good, p.x = on_gpu(random_tensor({9, 12}, 1, DType::bf16));
  CHECK(!cuda::takes_gemm_sm90(p));
  product.rows[0].low_rank.down = gpu_output({9, 4}, DType::bf16);
  CHECK(!cuda::takes_gemm_sm90(good));
}

}  // namespace parlo::test
