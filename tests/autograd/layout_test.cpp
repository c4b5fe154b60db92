// Moves of data and convolution: values exactly where a plain loop puts them.
#include "tests/autograd/gradcheck.h"

namespace parlo {
namespace {

using namespace test;

// t[index] of a contiguous tensor.
double at(const std::vector<double>& t, const Shape& shape, std::initializer_list<int64_t> index) {
  int64_t flat = 0;
  int axis = 0;
  for (int64_t i : index) flat = flat * shape[axis++] + i;
  return t[static_cast<size_t>(flat)];
}

TEST_CASE("reshape, also with -1 and of views") {
  const Tensor x = normal64({2, 3, 4}, 1);
  for (const Shape& shape : {Shape{24}, Shape{4, 6}, Shape{2, -1}, Shape{1, 2, 12, 1}}) {
    const Op op = [shape](std::span<const Var> in) { return reshape(in[0], shape); };
    CHECK(check_op("reshape", op, {x}).to_vector() == x.to_vector());
  }
  const Op empty = [](std::span<const Var> in) { return reshape(in[0], {3, 0}); };
  check_op("reshape", empty, {normal64({0, 5}, 1)});
  CHECK(contains(message_of([&] { reshape(Var(x), {5, 5}); }), "cannot view (2, 3, 4)"));
}

TEST_CASE("permute") {
  for (const Shape& shape : {Shape{2, 3, 4}, Shape{1, 3, 5}, Shape{2, 0, 3}}) {
    const Tensor x = normal64(shape, 1);
    const std::vector<double> v = x.to_vector();
    const Op op = [](std::span<const Var> in) { return permute(in[0], {2, 0, -2}); };
    const Tensor y = check_op("permute", op, {x});
    std::vector<double> expected;
    for (int64_t k = 0; k < shape[2]; ++k)
      for (int64_t i = 0; i < shape[0]; ++i)
        for (int64_t j = 0; j < shape[1]; ++j) expected.push_back(at(v, shape, {i, j, k}));
    CHECK((y.shape() == Shape{shape[2], shape[0], shape[1]}));
    CHECK(y.to_vector() == expected);
  }
  CHECK(contains(message_of([] { permute(Var(normal64({2, 3}, 1)), {0, 0}); }), "permutation"));
  CHECK(contains(message_of([] { permute(Var(normal64({2, 3}, 1)), {0}); }), "axes"));
}

TEST_CASE("cat along every axis, of unequal and empty parts") {
  for (int axis = -3; axis < 3; ++axis) {
    std::vector<Tensor> parts;
    Shape shape{2, 3, 2};
    for (int64_t n : {3, 0, 1}) {
      shape[axis] = n;
      parts.push_back(normal64(shape, static_cast<uint32_t>(n) + 1));
    }
    const Op op = [axis](std::span<const Var> in) { return cat(in, axis); };
    const Tensor y = check_op("cat", op, parts);
    CHECK(y.dim(axis) == 4);
    CHECK(same_bits(y.slice(axis, 0, 3), parts[0]));
    CHECK(same_bits(y.slice(axis, 3, 4), parts[2]));
  }
}

TEST_CASE("cat of a Var with itself doubles its gradient") {
  const Op op = [](std::span<const Var> in) {
    const Var parts[] = {in[0], in[1], in[0]};
    return cat(parts, 1);
  };
  check_op("cat", op, {normal64({2, 3}, 1), normal64({2, 1}, 2)});
}

TEST_CASE("cat names parts that do not fit") {
  const Var parts[] = {Var(normal64({2, 3}, 1)), Var(normal64({3, 3}, 2))};
  CHECK(contains(message_of([&] { cat(parts, 1); }), "cat: part has shape (3, 3)"));
  CHECK(contains(message_of([&] { cat(parts, 2); }), "axis"));
  CHECK(contains(message_of([] { cat({}, 0); }), "at least one"));
}

TEST_CASE("slice and chunk") {
  const Tensor x = normal64({3, 4, 6}, 1);
  for (int axis = -3; axis < 3; ++axis) {
    const Op part = [axis](std::span<const Var> in) { return slice(in[0], axis, 1, 3); };
    CHECK(same_bits(check_op("slice", part, {x}), x.slice(axis, 1, 3)));
    const Op none = [axis](std::span<const Var> in) { return slice(in[0], axis, 2, 2); };
    check_op("slice", none, {x});
  }
  const Op turned = [](std::span<const Var> in) {
    const std::vector<Var> parts = chunk(in[0], -1, 3);
    return mul(sub(parts[2], parts[0]), parts[1]);
  };
  const Tensor a = x.slice(2, 0, 2), b = x.slice(2, 2, 4), c = x.slice(2, 4, 6);
  std::vector<double> expected = c.to_vector();
  for (size_t i = 0; i < expected.size(); ++i)
    expected[i] = (expected[i] - a.to_vector()[i]) * b.to_vector()[i];
  CHECK(check_op("chunk", turned, {x}).to_vector() == expected);
  CHECK(contains(message_of([&] { chunk(Var(x), 1, 3); }), "chunk: 3 parts of axis 1"));
  CHECK(contains(message_of([&] { slice(Var(x), 0, 2, 4); }), "does not fit"));
}

TEST_CASE("gather_rows adds up the gradients of repeated rows") {
  const Tensor table = normal64({5, 3}, 1);
  const Tensor index = Tensor::from<int64_t>({4, 0, 4, 2, 4, 0}, {2, 3});
  const Op op = [index](std::span<const Var> in) { return gather_rows(in[0], index); };
  const Tensor y = check_op("gather_rows", op, {table});
  CHECK((y.shape() == Shape{2, 3, 3}));
  std::vector<double> expected;
  for (int64_t row : {4, 0, 4, 2, 4, 0})
    for (int64_t c = 0; c < 3; ++c) expected.push_back(table.to_vector()[row * 3 + c]);
  CHECK(y.to_vector() == expected);
  const Tensor none = Tensor::zeros({0}, DType::i64);
  check_op("gather_rows", [none](std::span<const Var> in) { return gather_rows(in[0], none); },
           {table});
  const Tensor strided = restrided(index, 0);
  CHECK(same_bits(gather_rows(Var(table), strided).value(), y));
  for (int64_t bad : {-1, 5}) {
    const Tensor wrong = Tensor::from<int64_t>({0, bad}, {2});
    CHECK(contains(message_of([&] { gather_rows(Var(table), wrong); }), std::to_string(bad)));
  }
}

TEST_CASE("patchify in both feature orders, and back") {
  for (bool channel_last : {false, true})
    for (const Shape& shape : {Shape{2, 3, 4, 6}, Shape{1, 1, 2, 2}, Shape{0, 3, 4, 4}}) {
      const int64_t p = 2, C = shape[1], H = shape[2] / p, W = shape[3] / p;
      const Tensor x = normal64(shape, 1);
      const std::vector<double> v = x.to_vector();
      std::vector<double> expected;
      for (int64_t b = 0; b < shape[0]; ++b)
        for (int64_t token = 0; token < H * W; ++token)
          for (int64_t f = 0; f < p * p * C; ++f) {
            const int64_t c = channel_last ? f % C : f / (p * p);
            const int64_t place = channel_last ? f / C : f % (p * p);
            expected.push_back(
                at(v, shape, {b, c, token / W * p + place / p, token % W * p + place % p}));
          }
      const Op op = [=](std::span<const Var> in) { return patchify(in[0], p, channel_last); };
      const Tensor tokens = check_op("patchify", op, {x});
      CHECK((tokens.shape() == Shape{shape[0], H * W, p * p * C}));
      CHECK(tokens.to_vector() == expected);
      const Op back = [=](std::span<const Var> in) {
        return unpatchify(in[0], p, channel_last, shape);
      };
      CHECK(same_bits(check_op("unpatchify", back, {tokens}), x));
    }
  CHECK(contains(message_of([] { patchify(Var(normal64({1, 1, 3, 4}, 1)), 2, true); }), "divide"));
}

struct ConvCase {
  Shape x, w;
  Conv2dArgs args;
};

Tensor plain_conv(const ConvCase& c, const Tensor& x, const Tensor& w, const Tensor& bias) {
  const Shape xs = c.x, ws = c.w;
  const int64_t s = c.args.stride, p = c.args.padding, in = ws[1];
  const Shape out{xs[0], ws[0], (xs[2] + 2 * p - ws[2]) / s + 1, (xs[3] + 2 * p - ws[3]) / s + 1};
  const std::vector<double> xv = x.to_vector(), wv = w.to_vector();
  std::vector<double> y;
  for (int64_t b = 0; b < out[0]; ++b)
    for (int64_t o = 0; o < out[1]; ++o)
      for (int64_t i = 0; i < out[2]; ++i)
        for (int64_t j = 0; j < out[3]; ++j) {
          double sum = bias ? bias.to_vector()[o] : 0;
          for (int64_t k = 0; k < in; ++k)
            for (int64_t u = 0; u < ws[2]; ++u)
              for (int64_t t = 0; t < ws[3]; ++t) {
                const int64_t row = i * s + u - p, column = j * s + t - p;
                if (row < 0 || row >= xs[2] || column < 0 || column >= xs[3]) continue;
                const int64_t channel = o / (out[1] / c.args.groups) * in + k;
                sum += at(xv, xs, {b, channel, row, column}) * at(wv, ws, {o, k, u, t});
              }
          y.push_back(sum);
        }
  return Tensor::from(y, out);
}

TEST_CASE("conv2d with stride, padding, groups") {
  for (const ConvCase& c : {ConvCase{{2, 2, 4, 5}, {3, 2, 3, 3}, {1, 1, 1}},
                            ConvCase{{1, 2, 5, 6}, {2, 2, 3, 2}, {2, 1, 1}},
                            ConvCase{{1, 4, 3, 3}, {4, 2, 2, 2}, {1, 0, 2}},
                            ConvCase{{1, 3, 2, 4}, {3, 1, 1, 1}, {1, 0, 3}},
                            ConvCase{{2, 1, 4, 4}, {2, 1, 2, 2}, {2, 0, 1}},
                            ConvCase{{1, 1, 1, 1}, {1, 1, 3, 3}, {1, 1, 1}},
                            ConvCase{{0, 2, 4, 4}, {3, 2, 3, 3}, {1, 1, 1}}}) {
    const Tensor x = normal64(c.x, 1), w = normal64(c.w, 2), bias = normal64({c.w[0]}, 3);
    const Op with = [&c](std::span<const Var> in) { return conv2d(in[0], in[1], in[2], c.args); };
    const Op without = [&c](std::span<const Var> in) { return conv2d(in[0], in[1], {}, c.args); };
    check_close(check_op("conv2d", with, {x, w, bias}), plain_conv(c, x, w, bias));
    check_close(check_op("conv2d", without, {x, w}), plain_conv(c, x, w, {}));
  }
  CHECK(contains(message_of([] {
                   conv2d(Var(normal64({1, 2, 4, 4}, 1)), Var(normal64({3, 1, 3, 3}, 2)), {}, {});
                 }),
                 "does not fit"));
}

}  // namespace
}  // namespace parlo
