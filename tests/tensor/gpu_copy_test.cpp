#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

const DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                      DType::i64, DType::i32, DType::u8};

// Values that every conversion must treat alike: fractions, signs, the ends of integer ranges.
Tensor awkward(DType dtype) {
  std::vector<double> values = {0,      -0.0, 1,     -1,         0.5,   -2.5,        127.9,
                                255.49, 300,  -300,  70000,      1e10,  -1e10,       1e20,
                                -1e20,  3e38, 1e300, 1.00390625, 65504, 2147483647.0};
  if (is_floating(dtype)) values.push_back(std::nan(""));
  return Tensor::from(values, {static_cast<int64_t>(values.size())}).to(dtype);
}

void check_same(const Tensor& gpu, const Tensor& cpu) {
  REQUIRE(!gpu.device().is_cpu());
  CHECK(same_values(gpu.to(Device{}), cpu));
}

}  // namespace

TEST_CASE("gpu: there and back keeps every bit") {
  for (const DType dtype : kAll) {
    const Tensor x = awkward(dtype);
    check_same(x.to(kGpu), x);
    check_same(x.to(kGpu).clone(), x);
  }
  CHECK(Tensor::empty({0, 3}).to(kGpu).to(Device{}).numel() == 0);
}

TEST_CASE("gpu: every conversion is the CPU's") {
  for (const DType from : kAll) {
    for (const DType to : kAll) {
      INFO(dtype_name(from), " to ", dtype_name(to));
      const Tensor x = awkward(from);
      check_same(x.to(kGpu).to(to), x.to(to));
    }
  }
}

TEST_CASE("gpu: strided copies, in units of 16, 8 and 4 bytes and not") {
  for (const DType dtype : {DType::f32, DType::bf16, DType::i64, DType::u8}) {
    for (const int64_t width : {1, 5, 16, 32}) {
      const Tensor x = random_tensor({3, 4, width, 6}, 1, DType::f32, 20).to(dtype);
      const Tensor g = x.to(kGpu);
      check_same(g.permute({2, 0, 3, 1}).contiguous(), x.permute({2, 0, 3, 1}).contiguous());
      check_same(g.transpose(1, 2).contiguous(), x.transpose(1, 2).contiguous());
      check_same(g.slice(1, 1, 3).contiguous(), x.slice(1, 1, 3).contiguous());
      for (const int64_t at : {0, 1, 2})  // rows of four elements, aligned or not
        check_same(g.slice(3, at, at + 4).contiguous(), x.slice(3, at, at + 4).contiguous());
      check_same(g.slice(2, 0, 1).expand({3, 4, 7, 6}).contiguous(),
                 x.slice(2, 0, 1).expand({3, 4, 7, 6}).contiguous());
      const Tensor into = Tensor::zeros({3, 4, width + 2, 6}, dtype), there = into.to(kGpu);
      into.slice(2, 1, width + 1).copy_from(x);
      there.slice(2, 1, width + 1).copy_from(g);
      check_same(there, into);
    }
  }
}

TEST_CASE("gpu: strided copies between devices") {
  const Tensor x = random_tensor({4, 6, 5}, 3);
  const Tensor target = Tensor::zeros({5, 6, 4}, DType::bf16, kGpu);
  target.permute({2, 1, 0}).copy_from(x);
  check_same(target, x.permute({2, 1, 0}).to(DType::bf16).contiguous());
  const Tensor back = Tensor::zeros({6, 4, 5}, DType::f64);
  back.transpose(0, 1).copy_from(target.permute({2, 1, 0}));
  CHECK(same_values(back, x.to(DType::bf16).to(DType::f64).transpose(0, 1).contiguous()));
}

TEST_CASE("gpu: overlapping copies and fills") {
  Tensor x = random_tensor({10}, 4), g = x.to(kGpu);
  x.slice(0, 1, 10).copy_from(x.slice(0, 0, 9));
  g.slice(0, 1, 10).copy_from(g.slice(0, 0, 9));
  check_same(g, x);
  for (const DType dtype : kAll) {
    const Tensor cpu = Tensor::zeros({4, 5}, dtype), gpu = Tensor::zeros({4, 5}, dtype, kGpu);
    cpu.slice(1, 1, 3).fill(-3.7), gpu.slice(1, 1, 3).fill(-3.7);
    check_same(gpu, cpu);
  }
}

TEST_CASE("gpu: memory is counted, and its end said clearly") {
  const MemoryStats before = memory_stats(kGpu);
  {
    const Tensor x = Tensor::empty({1000}, DType::f32, kGpu);
    CHECK(memory_stats(kGpu).current_bytes == before.current_bytes + 4000);
    CHECK(memory_stats(kGpu).allocations == before.allocations + 1);
  }
  CHECK(memory_stats(kGpu).current_bytes == before.current_bytes);
  CHECK(memory_stats(kGpu).peak_bytes >= before.current_bytes + 4000);
  const Tensor kept = Tensor::empty({500000}, DType::f32, kGpu);
  const std::string message =
      message_of([] { Tensor::empty({int64_t{1} << 50}, DType::f32, kGpu); });
  CHECK(contains(message, "out of memory on cuda:0: asked for"));
  CHECK(contains(message, "1 x 2 MB"));
  CHECK(contains(message_of([] {
                   Tensor::empty({1}, DType::f32, {Device::Kind::cuda, 99});
                 }),
                 "there is no cuda:99"));
}

}  // namespace parlo::test
