// Attention over tokens in two Vars: gradients, and the bits of the same by cat and slice.
#include <cmath>

#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

// Shapes of q0, q1, k0, k1, v0, v1.
std::vector<Shape> shapes_of(int64_t B, int64_t q0, int64_t q1, int64_t k0, int64_t k1, int64_t H,
                             int64_t Hkv, int64_t D) {
  const Shape a{B, k0, Hkv, D}, b{B, k1, Hkv, D};
  return {{B, q0, H, D}, {B, q1, H, D}, a, b, a, b};
}

std::vector<Tensor> normals(const std::vector<Shape>& shapes) {
  std::vector<Tensor> x;
  for (const Shape& shape : shapes) x.push_back(normal64(shape, static_cast<uint32_t>(x.size())));
  return x;
}

Var joined(const Var& a, const Var& b) {
  return cat(std::vector<Var>{a, b}, 1);
}

// Both results side by side.
Op joint_op(const AttentionArgs& args) {
  return [args](std::span<const Var> in) {
    const TokenVars y = joint_attention({in[0], in[1]}, {in[2], in[3]}, {in[4], in[5]}, args);
    return joined(y.first, y.second);
  };
}
Op cat_op(const AttentionArgs& args) {
  return [args](std::span<const Var> in) {
    return attention(joined(in[0], in[1]), joined(in[2], in[3]), joined(in[4], in[5]), args);
  };
}

void check_same(const Op& a, const Op& b, const std::vector<Tensor>& inputs) {
  const std::vector<bool> all(inputs.size(), true);
  const OpRun x = run_op(a, inputs, all), y = run_op(b, inputs, all);
  CHECK(same_bits(x.y, y.y));
  for (size_t i = 0; i < inputs.size(); ++i) {
    INFO("input ", i);
    CHECK(same_bits(x.grads[i], y.grads[i]));
  }
}

void check_joint(const std::vector<Shape>& shapes, const AttentionArgs& args) {
  const std::vector<Tensor> inputs = normals(shapes);
  check_op("joint_attention", joint_op(args), inputs);
  check_same(joint_op(args), cat_op(args), inputs);
}

AttentionArgs scaled(double scale, bool causal = false) {
  AttentionArgs args;
  args.scale = scale, args.causal = causal;
  return args;
}

TEST_CASE("joint attention: gradients, grouped queries, a causal order, an empty half") {
  check_joint(shapes_of(2, 3, 2, 3, 2, 2, 2, 4), scaled(0.5));
  check_joint(shapes_of(1, 4, 1, 2, 3, 4, 2, 3), scaled(0.6));
  check_joint(shapes_of(1, 2, 3, 2, 3, 2, 1, 3), scaled(0.6, true));
  check_joint(shapes_of(2, 3, 0, 3, 2, 1, 1, 3), scaled(0.6));
  check_joint(shapes_of(2, 3, 2, 0, 2, 1, 1, 3), scaled(0.6));
}

TEST_CASE("joint attention: masks of the joint axis") {
  AttentionArgs args = scaled(0.5);
  args.key_mask = Tensor::from<uint8_t>({1, 1, 0, 1, 0, 1, 1, 1, 1, 0}, {2, 5});
  check_joint(shapes_of(2, 3, 2, 3, 2, 2, 1, 3), args);
  args.key_mask = {};
  args.key_lengths = Tensor::from<int64_t>({4, 2}, {2});
  check_joint(shapes_of(2, 3, 2, 3, 2, 2, 1, 3), args);
}

TEST_CASE("joint attention: one result is used, twice, or neither queries nor results are two") {
  const AttentionArgs args = scaled(0.5);
  const std::vector<Tensor> inputs = normals(shapes_of(2, 3, 2, 3, 2, 2, 2, 4));
  for (const bool text : {false, true}) {
    const Op joint = [=](std::span<const Var> in) {
      const TokenVars y = joint_attention({in[0], in[1]}, {in[2], in[3]}, {in[4], in[5]}, args);
      return text ? add(y.second, y.second) : y.first;
    };
    const Op whole = [=](std::span<const Var> in) {
      const Var y = cat_op(args)(in), part = slice(y, 1, 3, 5);
      return text ? add(part, part) : slice(y, 1, 0, 3);
    };
    check_same(joint, whole, inputs);
  }
  const std::vector<Tensor> five{inputs[0], inputs[2], inputs[3], inputs[4], inputs[5]};
  check_same(
      [&](std::span<const Var> in) {
        const TokenVars y = joint_attention({in[0], {}}, {in[1], in[2]}, {in[3], in[4]}, args);
        CHECK(!y.second.defined());
        return y.first;
      },
      [&](std::span<const Var> in) {
        return attention(in[0], joined(in[1], in[2]), joined(in[3], in[4]), args);
      },
      five);
}

TEST_CASE("joint attention: a checkpoint of both results") {
  const AttentionArgs args = scaled(0.5);
  const Op again = [&](std::span<const Var> in) {
    return checkpoint(joint_op(args), std::vector<Var>(in.begin(), in.end()));
  };
  const std::vector<Tensor> inputs = normals(shapes_of(2, 3, 2, 3, 2, 2, 2, 4));
  const OpRun x = run_op(again, inputs, std::vector<bool>(6, true)),
              y = run_op(joint_op(args), inputs, std::vector<bool>(6, true));
  CHECK(same_bits(x.y, y.y));
  for (size_t i = 0; i < 6; ++i) CHECK(same_bits(x.grads[i], y.grads[i]));
}

TEST_CASE("joint attention names what does not fit") {
  const Var q(normal64({2, 3, 4, 5}, 1)), k(normal64({2, 3, 2, 5}, 2)),
      odd(normal64({2, 3, 2, 4}, 3));
  CHECK(contains(message_of([&] {
                   joint_attention({q, q}, {k, k}, {k, {}}, {});
                 }),
                 "v has one tensor, expected two"));
  CHECK(contains(message_of([&] {
                   joint_attention({q, q}, {k, odd}, {k, k}, {});
                 }),
                 "k has shape"));
}

}  // namespace
}  // namespace parlo
