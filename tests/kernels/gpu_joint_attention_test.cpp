// Attention over tokens in two tensors on a GPU: against the CPU's in f64 on the same rounded
// inputs, and with the bits of attention over their concatenation where tiles are cut the same.
#include "tensor/cuda/runtime.h"
#include "tests/kernels/gpu_kernel_support.h"
#include "tests/kernels/joint_attention.h"

namespace parlo::test {
namespace {

// same_tiles: the concatenation is cut into the same tiles, which gives the same bits.
void check_joint(const JointSizes& s, JointMask mask, bool fused, DType dtype,
                 bool same_tiles = true) {
  INFO(name_of(s, mask, fused, dtype));
  const auto input = [&](const Shape& shape, uint32_t seed) {
    return random_tensor(shape, seed, dtype);
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
  if (!same_tiles) return;
  const JointAnswer whole = p.run_concatenated(args, cuda::attention, cuda::attention_backward);
  CHECK(same_gpu_bits(got.out, whole.out));
  CHECK(same_gpu_bits(got.lse, whole.lse));
  // In bf16 Hopper has a backward of its own for tokens in one tensor.
  const bool one_backward = dtype == DType::f32 || cuda::properties(kGpu).major != 9;
  if (one_backward) CHECK(same_answer(got, whole));
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
      // wgmma: no tile holds rows of both, so that only a first tensor of whole tiles has the bits.
      check_joint({1, 70, 20, 140, 20, 2, 1, d}, kAllSeen, fused, DType::bf16, false);
    }
    check_joint({1, 130, 40, 130, 40, 1, 1, d}, kCausalOrder, true, DType::bf16, false);
    check_joint({2, 1, 9, 256, 9, 1, 1, d}, kAllSeen, false, DType::bf16);
  }
}

TEST_CASE("gpu: two tensors of tokens, one of them empty") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {16, 64}) {
      check_joint({2, 20, 0, 20, 9, 2, 2, d}, kAllSeen, true, dtype, false);  // no text queries
      check_joint({1, 0, 20, 0, 20, 2, 1, d}, kCausalOrder, false, dtype);
      check_joint({1, 20, 9, 20, 0, 2, 1, d}, kAllSeen, true, dtype, false);
    }
    check_joint({2, 4, 9, 0, 0, 2, 1, 16}, kAllSeen, false, dtype);
    check_joint({2, 0, 0, 3, 4, 2, 1, 16}, kAllSeen, true, dtype);
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
