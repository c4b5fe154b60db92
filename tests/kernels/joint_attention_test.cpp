// Attention over tokens in two tensors has the bits of attention over their concatenation.
#include "tests/kernels/joint_attention.h"

#include "tensor/parallel.h"

namespace parlo::test {
namespace {

Tensor random_f32(const Shape& shape, uint32_t seed) {
  return random_tensor(shape, seed);
}

void check_joint(const JointSizes& s, JointMask mask, bool fused, DType dtype) {
  INFO(name_of(s, mask, fused, dtype));
  const auto blank = [&](const Shape& shape) { return Tensor::full(shape, std::nan(""), dtype); };
  const JointProblem p(
      s, fused,
      [&](const Shape& shape, uint32_t seed) { return random_tensor(shape, seed, dtype); }, blank,
      blank(s.lse()));
  const AttentionArgs args = joint_args(s, mask);
  CHECK(same_answer(p.run(args, cpu::attention, cpu::attention_backward),
                    p.run_concatenated(args, cpu::attention, cpu::attention_backward)));
}

}  // namespace

TEST_CASE("two tensors of tokens: every mask, grouped heads, strides, odd sizes") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const JointMask mask : kJointMasks) {
      for (const bool fused : {false, true}) {
        check_joint({3, 5, 3, 5, 3, 2, 2, 8}, mask, fused, dtype);
        check_joint({2, 7, 2, 11, 4, 4, 2, 5}, mask, fused, dtype);
        check_joint({2, 33, 14, 33, 14, 2, 1, 64}, mask, fused, dtype);
      }
    }
  }
}

TEST_CASE("two tensors of tokens: the cut within a tile and between two, D = 64 and 128") {
  for (const int64_t d : {20, 64, 128}) {
    for (const JointMask mask : {kAllSeen, kCausalOrder, kKeyLengths}) {
      check_joint({1, 300, 77, 300, 77, 1, 1, d}, mask, true, DType::f32);
      check_joint({1, 256, 40, 256, 40, 2, 1, d}, mask, false, DType::f32);
      check_joint({1, 96, 1, 255, 2, 1, 1, d}, mask, true, DType::f32);
    }
  }
  check_joint({1, 520, 600, 520, 600, 1, 1, 16}, kAllSeen, false, DType::f32);
}

TEST_CASE("two tensors of tokens: one of them empty") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const bool fused : {false, true}) {
      check_joint({2, 20, 0, 20, 9, 2, 2, 16}, kAllSeen, fused, dtype);  // no text queries
      check_joint({2, 0, 20, 0, 20, 2, 1, 16}, kCausalOrder, fused, dtype);
      check_joint({2, 20, 9, 20, 0, 2, 1, 16}, kKeyLengths, fused, dtype);
      check_joint({2, 4, 9, 0, 0, 2, 1, 16}, kAllSeen, fused, dtype);
      check_joint({2, 0, 0, 3, 4, 2, 1, 16}, kAllSeen, fused, dtype);
    }
  }
}

TEST_CASE("two tensors of tokens: queries in one tensor, keys in two") {
  const JointSizes s{2, 20, 9, 20, 9, 2, 2, 16};
  const TokensQkv x(s, false, random_f32);
  const AttentionArgs args = joint_args(s, kAllSeen);
  const Tensor q = joined(x.q), lse = Tensor::empty(s.lse());
  const Tensor out = Tensor::empty(q.shape()), want = Tensor::empty(q.shape());
  cpu::attention(q, x.k, x.v, out, lse, args);
  cpu::attention(q, joined(x.k), joined(x.v), want, lse, args);
  CHECK(same_values(out, want));
}

TEST_CASE("two tensors of tokens: the same bits for any number of threads") {
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    check_joint({3, 70, 20, 70, 20, 4, 2, 32}, kAllSeen, true, DType::f32);
  }
  set_num_threads(2);
}

TEST_CASE("two tensors of tokens: faults are named") {
  const JointSizes s{1, 4, 3, 4, 3, 2, 2, 8};
  const TokensQkv x(s, false,
                    [](const Shape& shape, uint32_t seed) { return random_tensor(shape, seed); });
  const Tensor lse = Tensor::empty(s.lse());
  const auto refusal = [&](const Tokens& q, const Tokens& k, const Tokens& v, const Tokens& out) {
    return message_of([&] { cpu::attention(q, k, v, out, lse, joint_args(s, kAllSeen)); });
  };
  CHECK(contains(refusal(x.q, x.k, joined(x.v), x.q), "v has one tensor, expected two"));
  CHECK(contains(refusal(x.q, x.k, x.v, {x.q.second, x.q.first}), "out has shape"));
  CHECK(contains(refusal(x.q, {x.k.first, joined(x.k).to(DType::f64)}, x.v, x.q), "k is f64"));
}

}  // namespace parlo::test
