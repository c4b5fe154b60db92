// Attention over tokens in two tensors on a GPU: against the CPU's in f64 on the same rounded
// inputs, and with the bits of attention over their concatenation where tiles are cut the same.
#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_kernel_support.h"
#include "tests/kernels/joint_attention.h"

namespace parlo::test {
namespace {

// No tile of Hopper's bf16 kernels holds rows of both tensors: the concatenation is cut into the
// same tiles, which gives the same bits, where the first tensor is whole tiles or the only one.
// The other kernels look up every row.
bool same_tiles(int64_t first, int64_t second, DType dtype) {
  const bool hopper = dtype == DType::bf16 && cuda::properties(kGpu).major == 9;
  return !hopper || first % 128 == 0 || second == 0;
}

// far: one column puts all scores below -100.
void check_joint(const JointSizes& s, JointMask mask, bool fused, DType dtype, bool far = false) {
  INFO(name_of(s, mask, fused, dtype));
  const auto input = [&](const Shape& shape, uint32_t seed) {
    const Tensor x = random_tensor(shape, seed);
    const uint32_t of = seed / 10;  // TokensQkv's: 2 queries, 3 keys
    if (far && (of == 2 || of == 3)) x.slice(3, 0, 1).fill(of == 2 ? 2048 : -1);
    return x.to(dtype);
  };
  const auto wide = [](const Shape& shape) { return Tensor::empty(shape, DType::f64); };
  const JointProblem reference(
      s, fused, [&](const Shape& shape, uint32_t i) { return input(shape, i).to(DType::f64); },
      wide, wide(s.lse()));
  const JointProblem p(
      s, fused, [&](const Shape& shape, uint32_t i) { return on_gpu(input(shape, i)); },
      [&](const Shape& shape) { return gpu_output(shape, dtype); }, gpu_output(s.lse()));
  AttentionArgs args = joint_args(s, mask);
  const JointAnswer want = reference.run(args, cpu::attention, cpu::attention_backward);
  args.key_lengths = on_gpu(args.key_lengths), args.key_mask = on_gpu(args.key_mask);
  const JointAnswer got = p.run(args, cuda::attention, cuda::attention_backward);
  check_close(got.out, want.out, tolerance(dtype));
  check_close(got.lse, want.lse, tolerance(DType::f32));
  check_close(got.dq, want.dq, 2 * tolerance(dtype));
  check_close(got.dk, want.dk, 2 * tolerance(dtype));
  check_close(got.dv, want.dv, 2 * tolerance(dtype));
  if (!same_tiles(s.tk0, s.tk1, dtype)) return;
  // Rows of a tile do not meet: sums over keys do not depend on how queries are cut.
  const JointAnswer whole = p.run_concatenated(args, cuda::attention, cuda::attention_backward);
  CHECK(same_gpu_bits(got.out, whole.out));
  CHECK(same_gpu_bits(got.lse, whole.lse));
  CHECK(same_gpu_bits(got.dq, whole.dq));
  if (!same_tiles(s.tq0, s.tq1, dtype)) return;
  CHECK(same_gpu_bits(got.dk, whole.dk));
  CHECK(same_gpu_bits(got.dv, whole.dv));
}

}  // namespace

TEST_CASE("gpu: two tensors of tokens, with every mask, grouped heads, strides, odd sizes") {
  for (const DType dtype : kGpuTypes) {
    for (const JointMask mask : kJointMasks) {
      check_joint({3, 5, 3, 5, 3, 2, 2, 8}, mask, true, dtype);
      check_joint({1, 40, 33, 70, 29, 2, 1, 40}, mask, false, dtype);
    }
    check_joint({2, 7, 2, 11, 4, 4, 2, 5}, kCausalOrder, true, dtype);  // rows off 16 bytes
    check_joint({1, 33, 5, 20, 40, 1, 1, 160}, kCausalOrder, true, dtype);
  }
}

TEST_CASE("gpu: two tensors of tokens, D = 64 and 128, the cut within a tile and between two") {
  for (const int64_t d : {64, 128}) {
    for (const bool fused : {false, true}) {
      check_joint({1, 70, 20, 70, 20, 2, 1, d}, kKeyLengths, fused, DType::bf16);
      check_joint({1, 64, 9, 64, 9, 1, 1, d}, kAllSeen, fused, DType::f32);
      check_joint({1, 70, 20, 140, 20, 2, 1, d}, kAllSeen, fused, DType::bf16);
    }
    check_joint({1, 130, 40, 130, 40, 1, 1, d}, kCausalOrder, true, DType::bf16);
    check_joint({2, 1, 9, 256, 9, 1, 1, d}, kAllSeen, false, DType::bf16);
    check_joint({1, 128, 40, 128, 40, 2, 1, d}, kCausalOrder, true, DType::bf16);
  }
}

TEST_CASE("gpu: two tensors of tokens, D = 64 and 128, where the keys of a sample end") {
  for (const int64_t d : {64, 128}) {
    check_joint({3, 128, 9, 128, 150, 2, 1, d}, kKeyLengths, true, DType::bf16);
    check_joint({2, 20, 30, 140, 30, 1, 1, d}, kEveryMask, false, DType::bf16);
  }
}

TEST_CASE("gpu: two tensors of tokens, NaN where the keys of a sample have ended") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : dtype == DType::f32 ? std::vector{16} : std::vector{16, 64, 128}) {
      const JointSizes s{2, 20, 30, 140, 31, 1, 1, d};
      const JointProblem p(
          s, false,
          [&](const Shape& shape, uint32_t i) { return on_gpu(random_tensor(shape, i, dtype)); },
          [&](const Shape& shape) { return gpu_output(shape, dtype); }, gpu_output(s.lse()));
      AttentionArgs args = joint_args(s, kKeyLengths);  // 140 + 15, 70
      args.key_lengths = on_gpu(args.key_lengths);
      const JointAnswer want = p.run(args, cuda::attention, cuda::attention_backward);
      for (const Tokens& x : {p.x.k, p.x.v}) {
        x.first.slice(0, 1, 2).slice(1, 70, 140).fill(std::nan(""));
        x.second.slice(0, 0, 1).slice(1, 15, 31).fill(std::nan(""));
        x.second.slice(0, 1, 2).fill(std::nan(""));
      }
      CHECK(same_answer(p.run(args, cuda::attention, cuda::attention_backward), want));
    }
  }
}

// Rows of zeros that fill the last tile of a tensor would have scores of 0, far above the others.
TEST_CASE("gpu: two tensors of tokens whose scores lie far below zero") {
  for (const int64_t d : {64, 128}) {
    check_joint({1, 20, 30, 40, 20, 1, 1, d}, d == 64 ? kAllSeen : kCausalOrder, false, DType::bf16,
                true);
  }
}

TEST_CASE("gpu: two tensors of tokens, one of them empty") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {16, 64}) {
      check_joint({2, 20, 0, 20, 9, 2, 2, d}, kAllSeen, true, dtype);  // no text queries
      check_joint({1, 0, 20, 0, 20, 2, 1, d}, kCausalOrder, false, dtype);
      check_joint({1, 20, 9, 20, 0, 2, 1, d}, kAllSeen, true, dtype);
    }
    check_joint({2, 4, 9, 0, 0, 2, 1, 16}, kAllSeen, false, dtype);
    check_joint({2, 0, 0, 3, 4, 2, 1, 16}, kAllSeen, true, dtype);
  }
}

TEST_CASE("gpu: two tensors of tokens give the same bits in any batch") {
  for (const int64_t d : {64, 128}) {
    const JointSizes s{2, 20, 30, 140, 31, 2, 1, d};
    const JointProblem all(
        s, true,
        [](const Shape& shape, uint32_t i) { return on_gpu(random_tensor(shape, i, DType::bf16)); },
        [](const Shape& shape) { return gpu_output(shape, DType::bf16); }, gpu_output(s.lse()));
    AttentionArgs args = joint_args(s, kKeyLengths);
    const Tensor lengths = args.key_lengths = on_gpu(args.key_lengths);
    const JointAnswer want = all.run(args, cuda::attention, cuda::attention_backward);
    for (int64_t b = 0; b < s.batch; ++b) {
      JointProblem alone = all;
      for (TokensQkv* x : {&alone.x, &alone.other, &alone.outs, &alone.grads}) {
        for (Tokens* t : {&x->q, &x->k, &x->v}) {
          *t = {t->first.slice(0, b, b + 1), t->second.slice(0, b, b + 1)};
        }
      }
      alone.lse = all.lse.slice(0, b, b + 1), args.key_lengths = lengths.slice(0, b, b + 1);
      const JointAnswer got = alone.run(args, cuda::attention, cuda::attention_backward);
      for (auto of : {&JointAnswer::out, &JointAnswer::dq, &JointAnswer::dk, &JointAnswer::dv}) {
        CHECK(same_gpu_bits(got.*of, (want.*of).slice(0, b, b + 1)));
      }
    }
  }
}

TEST_CASE("gpu: two tensors of tokens must lie on one device") {
  const JointSizes s{1, 4, 3, 4, 3, 2, 2, 8};
  const TokensQkv x(s, false, [](const Shape& shape, uint32_t) { return gpu_output(shape); });
  const Tokens k(x.k.first, x.k.second.to(Device{}));
  CHECK(contains(message_of([&] { cuda::attention(x.q, k, x.v, x.q, gpu_output(s.lse()), {}); }),
                 "operands lie on"));
}

}  // namespace parlo::test
