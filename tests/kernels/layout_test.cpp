#include "kernels/layout.h"

#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

TEST_CASE("concat along every axis, of views and empty parts") {
  for (DType dtype : {DType::f32, DType::f64}) {
    for (int axis : {0, 1, 2, -1}) {
      const int k = axis < 0 ? axis + 3 : axis;
      std::vector<Tensor> parts;
      Shape shape = {3, 4, 5};
      int64_t total = 0;
      for (int64_t size : {2, 0, 1, 3}) {
        Shape part = shape;
        part[k] = size;
        // A turned view: its memory order is reversed.
        const Shape turned = {part[2], part[1], part[0]};
        parts.push_back(
            random_tensor(turned, 7 + static_cast<uint32_t>(size), dtype).permute({2, 1, 0}));
        total += size;
      }
      shape[k] = total;
      const Tensor out = Tensor::full(shape, -1, dtype);
      cpu::concat(parts, axis, out);
      int64_t at = 0;
      for (const Tensor& part : parts) {
        CHECK(same_values(out.slice(k, at, at + part.dim(k)), part));
        at += part.dim(k);
      }
    }
  }
  const std::vector<Tensor> parts = {Tensor::zeros({2, 3}), Tensor::zeros({2, 2})};
  CHECK(contains(message_of([&] { cpu::concat(parts, 1, Tensor::empty({2, 6})); }), "concat"));
  CHECK(contains(message_of([&] { cpu::concat(parts, 1, Tensor::empty({2, 4})); }), "concat"));
  CHECK(contains(message_of([&] { cpu::concat(parts, 0, Tensor::empty({4, 3})); }), "concat"));
}

TEST_CASE("gather and scatter-add of rows") {
  const Tensor table = random_tensor({6, 33}, 1);
  const Tensor index = Tensor::from(std::vector<int64_t>{5, 0, 0, 2, 5, 5}, {2, 3});
  const Tensor out = Tensor::empty({6, 33});
  cpu::gather_rows(table, index, out);
  const auto ids = index.to_vector();
  for (int64_t i = 0; i < 6; ++i)
    CHECK(same_bits(out.select(0, i), table.select(0, static_cast<int64_t>(ids[i]))));

  const Tensor rows = random_tensor({6, 33}, 2), sum = table.clone();
  cpu::scatter_add_rows(rows, index, sum);
  const Tensor expected = table.clone();
  for (int64_t i = 0; i < 6; ++i)
    for (int64_t c = 0; c < 33; ++c)
      expected.data<float>()[static_cast<int64_t>(ids[i]) * 33 + c] +=
          rows.data<float>()[i * 33 + c];
  CHECK(same_bits(sum, expected));

  for (int64_t bad : {int64_t{-1}, int64_t{6}, INT64_MAX}) {
    const Tensor wrong = Tensor::from(std::vector<int64_t>{0, bad}, {2});
    const std::string message = message_of([&] {
      cpu::gather_rows(table, wrong, Tensor::empty({2, 33}));
    });
    CHECK(contains(message, "index " + std::to_string(bad)));
    CHECK(message_of([&] { cpu::scatter_add_rows(Tensor::zeros({2, 33}), wrong, sum); }) != "");
  }
  const Tensor none = Tensor::empty({0}, DType::i64);
  cpu::gather_rows(table, none, Tensor::empty({0, 33}));
  cpu::scatter_add_rows(Tensor::empty({0, 33}), none, sum);
  cpu::gather_rows(Tensor::empty({6, 0}), index, Tensor::empty({6, 0}));

  std::vector<int64_t> many;
  for (int64_t i = 0; i < 3000; ++i) many.push_back(i * 7 % 11);
  const Tensor list = Tensor::from(many, {3000}), big = random_tensor({3000, 50}, 3);
  check_thread_counts([&] {
    const Tensor t = Tensor::zeros({11, 50}), g = Tensor::empty({3000, 50});
    cpu::scatter_add_rows(big, list, t);
    cpu::gather_rows(t, list, g);
    return std::vector<Tensor>{t, g};
  });
}

TEST_CASE("patchify in both orders and back") {
  const int64_t B = 2, C = 3, h = 4, w = 5, p = 2;
  const Tensor x = random_tensor({B, C, h * p, w * p}, 1);
  for (bool channel_last : {false, true}) {
    const Tensor tokens = Tensor::empty({B, h * w, p * p * C});
    cpu::patchify(x, p, channel_last, tokens);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t c = 0; c < C; ++c)
        for (int64_t i = 0; i < h * p; ++i)
          for (int64_t j = 0; j < w * p; ++j) {
            const int64_t token = i / p * w + j / p, row = i % p, column = j % p;
            const int64_t feature =
                channel_last ? (row * p + column) * C + c : (c * p + row) * p + column;
            REQUIRE(tokens.data<float>()[(b * h * w + token) * p * p * C + feature] ==
                    x.data<float>()[((b * C + c) * h * p + i) * w * p + j]);
          }
    const Tensor back = Tensor::full(x.shape(), 0);
    cpu::unpatchify(tokens, p, channel_last, back);
    CHECK(same_bits(back, x));
  }
  const Tensor tokens = Tensor::empty({B, h * w, p * p * C});
  CHECK(contains(message_of([&] { cpu::patchify(x, 3, true, tokens); }), "multiples of 3"));
  cpu::patchify(Tensor::empty({0, 3, 4, 4}), 2, true, Tensor::empty({0, 4, 12}));
}
