#include "kernels/layout.h"

#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

// n indices in [0, V), some of them often.
Tensor indices(int64_t n, int64_t V) {
  std::mt19937 engine(7);
  std::vector<int64_t> values(static_cast<size_t>(n));
  for (int64_t& i : values) i = engine() % 3 == 0 ? V / 2 : static_cast<int64_t>(engine()) % V;
  return Tensor::from(values, {n});
}

struct Case {
  int64_t V, C, n;
};
const Case kCases[] = {{1, 1, 1},    {5, 3, 7},   {9, 16, 40}, {50, 72, 700},
                       {4, 2056, 9}, {7, 520, 0}, {6, 0, 4},   {3, 300, 513}};

}  // namespace

TEST_CASE("gpu: gather_rows of every width, aligned or not") {
  for (const DType dtype : {DType::f64, DType::f32, DType::bf16, DType::u8}) {
    for (const Case& c : kCases) {
      INFO("V ", c.V, ", C ", c.C, ", n ", c.n, ", ", dtype_name(dtype));
      const Tensor table = random_tensor({c.V, c.C}, 1, dtype, 20), index = indices(c.n, c.V);
      const Tensor want = Tensor::empty({c.n, c.C}, dtype),
                   got = Tensor::zeros({c.n, c.C}, dtype, kGpu);
      cpu::gather_rows(table, index, want);
      cuda::gather_rows(on_gpu(table), on_gpu(index), got);
      CHECK(same_bits(got.to(Device{}), want));
      const Tensor again = shifted(Tensor::zeros({c.n, c.C}, dtype, kGpu));
      cuda::gather_rows(shifted(on_gpu(table)), shifted(on_gpu(index)), again);
      CHECK(same_gpu_bits(again, got));
    }
  }
}

TEST_CASE("gpu: scatter_add_rows adds in the order of i") {
  for (const DType dtype : kGpuTypes) {
    for (const Case& c : kCases) {
      INFO("V ", c.V, ", C ", c.C, ", n ", c.n, ", ", dtype_name(dtype));
      const GpuInput table({c.V, c.C}, 1, dtype), rows({c.n, c.C}, 2, dtype);
      const Tensor index = indices(c.n, c.V), got = table.gpu.clone(), other = shifted(table.gpu);
      const Tensor want = table.reference.clone();
      cpu::scatter_add_rows(rows.reference, index, want);
      cuda::scatter_add_rows(rows.gpu, on_gpu(index), got);
      check_close(got, want);
      cuda::scatter_add_rows(shifted(rows.gpu), on_gpu(index), other);
      CHECK(same_gpu_bits(got, other));
      if (dtype != DType::f32) continue;
      const Tensor same = table.gpu.to(Device{}).clone();
      cpu::scatter_add_rows(rows.gpu.to(Device{}), index, same);
      CHECK(same_bits(got.to(Device{}), same));
    }
  }
}

TEST_CASE("gpu: a bad index is named, and nothing is written") {
  const Tensor table = Tensor::zeros({4, 3}, DType::f32, kGpu),
               rows = Tensor::zeros({3, 3}, DType::f32, kGpu);
  for (const int64_t bad : {int64_t{4}, int64_t{-1}, int64_t{1} << 40}) {
    const Tensor index = on_gpu(Tensor::from(std::vector<int64_t>{0, bad, 9}, {3}));
    const std::string expected = concat("index ", bad, " is outside [0, 4)");
    CHECK(contains(message_of([&] { cuda::gather_rows(table, index, rows); }),
                   "gather_rows: " + expected));
    rows.fill(1);
    CHECK(contains(message_of([&] { cuda::scatter_add_rows(rows, index, table); }),
                   "scatter_add_rows: " + expected));
    CHECK(table.to_vector()[0] == 0);
  }
  const Tensor here = Tensor::zeros({3}, DType::i64);
  CHECK(contains(message_of([&] { cuda::gather_rows(table, here, rows); }), "operands lie on"));
}

TEST_CASE("gpu: in a captured graph a bad index gives NaN") {
  const Tensor table = Tensor::full({4, 5}, 1, DType::f32, kGpu);
  const Tensor index = on_gpu(Tensor::from(std::vector<int64_t>{0, 7}, {2}));
  const Tensor rows = Tensor::zeros({2, 5}, DType::f32, kGpu);
  const auto graph = cuda::Graph::capture(kGpu, [&] { cuda::gather_rows(table, index, rows); });
  graph.launch();
  CHECK(rows.to_vector()[0] == 1);
  CHECK(std::isnan(rows.to_vector()[9]));
}

TEST_CASE("gpu: concat of strided parts along every axis") {
  for (const DType dtype : kGpuTypes) {
    for (const int axis : {0, 1, -1}) {
      std::vector<Tensor> parts, reference;
      Shape shape = {3, 4, 8};
      int64_t total = 0;
      for (const int64_t size : {2, 1, 5}) {
        shape[axis] = size, total += size;
        Shape turned = shape;
        std::swap(turned[0], turned[2]);
        const GpuInput x(turned, static_cast<uint32_t>(size), dtype);
        parts.push_back(x.gpu.transpose(0, 2));
        reference.push_back(x.reference.transpose(0, 2));
      }
      shape[axis] = total;
      const Tensor want = Tensor::empty(shape, DType::f64), got = gpu_output(shape, dtype);
      cpu::concat(reference, axis, want);
      cuda::concat(parts, axis, got);
      CHECK(same_values(got, want));
      CHECK(contains(message_of([&] { cuda::concat(std::span(parts).first(2), axis, got); }),
                     "parts have"));
    }
  }
}

TEST_CASE("gpu: patches and back") {
  for (const DType dtype : kGpuTypes) {
    for (const bool channel_last : {false, true}) {
      const GpuInput x({2, 3, 4, 6}, 1, dtype);
      const Tensor want = Tensor::empty({2, 6, 12}, DType::f64),
                   got = gpu_output({2, 6, 12}, dtype);
      cpu::patchify(x.reference, 2, channel_last, want);
      cuda::patchify(x.gpu, 2, channel_last, got);
      CHECK(same_values(got, want));
      const Tensor back = gpu_output({2, 3, 4, 6}, dtype);
      cuda::unpatchify(got, 2, channel_last, back);
      CHECK(same_values(back, x.gpu));
    }
  }
  CHECK(contains(message_of([] {
                   cuda::patchify(gpu_output({1, 1, 3, 4}), 2, true, gpu_output({1, 2, 4}));
                 }),
                 "multiples of 2"));
}

}  // namespace parlo::test
