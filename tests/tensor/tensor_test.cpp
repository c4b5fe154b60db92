#include "tensor/tensor.h"

#include <functional>
#include <numeric>

#include "tensor/parallel.h"
#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

Tensor counting(const Shape& shape) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  std::iota(values.begin(), values.end(), 0.f);
  return Tensor::from(values, shape);
}

constexpr DType kAll[] = {DType::f64, DType::f32, DType::bf16, DType::f16,
                          DType::i64, DType::i32, DType::u8};

// The value at an index, from shape, strides and the raw pointer alone.
double at(const Tensor& t, const std::vector<int64_t>& index) {
  int64_t offset = 0;
  for (size_t i = 0; i < index.size(); ++i) offset += index[i] * t.strides()[static_cast<int>(i)];
  return t.data<float>()[offset];
}

}  // namespace

TEST_CASE("views share memory and index rightly") {
  const Tensor t = counting({2, 3, 4});
  const Tensor p = t.permute({2, 0, -2});
  CHECK((p.shape() == Shape{4, 2, 3}));
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t j = 0; j < 3; ++j)
      for (int64_t k = 0; k < 4; ++k) CHECK(at(p, {k, i, j}) == at(t, {i, j, k}));
  CHECK(!p.is_contiguous());
  CHECK(same_values(p.contiguous().permute({1, 2, 0}), t));
  const Tensor s = t.slice(1, 1, 3).slice(-1, 2, 4);
  CHECK((s.to_vector() == std::vector<double>{6, 7, 10, 11, 18, 19, 22, 23}));
  s.fill(-1);
  CHECK(t.to_vector()[6] == -1);
  CHECK(t.to_vector()[5] == 5);
  const Tensor q = counting({2, 3});
  CHECK((q.select(0, 1).to_vector() == std::vector<double>{3, 4, 5}));
  CHECK((q.select(-1, 2).to_vector() == std::vector<double>{2, 5}));
  CHECK((q.transpose(0, -1).to_vector() == std::vector<double>{0, 3, 1, 4, 2, 5}));
  CHECK((q.unsqueeze(0).shape() == Shape{1, 2, 3}));
  CHECK((q.unsqueeze(-1).shape() == Shape{2, 3, 1}));
  CHECK((q.unsqueeze(1).squeeze(-2).shape() == Shape{2, 3}));
  CHECK(q.unsqueeze(1).is_contiguous());
  CHECK((q.transpose(0, 1).unsqueeze(1).to_vector() == std::vector<double>{0, 3, 1, 4, 2, 5}));
  CHECK((q.view({-1}).shape() == Shape{6}));
  CHECK((q.view({3, -1, 1}).shape() == Shape{3, 2, 1}));
  CHECK((q.transpose(0, 1).reshape({2, 3}).to_vector() == std::vector<double>{0, 3, 1, 4, 2, 5}));
  CHECK(q.reshape({6}).raw() == q.raw());
}

TEST_CASE("expand repeats without copying") {
  const Tensor row = counting({1, 3});
  const Tensor e = row.expand({2, 4, 3});
  CHECK((e.shape() == Shape{2, 4, 3}));
  CHECK(e.strides()[0] == 0);
  CHECK(e.raw() == row.raw());
  const auto values = e.to_vector();
  for (size_t i = 0; i < values.size(); ++i) CHECK(values[i] == i % 3);
  CHECK((e.clone().strides() == contiguous_strides({2, 4, 3})));
  CHECK((row.expand({0, 3}).numel() == 0));
  CHECK(contains(message_of([&] { row.expand({1, 4}); }), "(1, 3)"));
  CHECK(message_of([&] { row.expand({3}); }) != "");
  // Several elements of e are one element of memory.
  CHECK(contains(message_of([&] { e.fill(0); }), "repeats"));
}

TEST_CASE("views refuse what does not fit") {
  const Tensor t = counting({2, 3});
  for (const auto& body :
       std::vector<std::function<void()>>{[&] { t.slice(0, -1, 1); },
                                          [&] { t.slice(0, 1, 3); },
                                          [&] { t.slice(2, 0, 1); },
                                          [&] { t.slice(0, 2, 1); },
                                          [&] { t.select(0, 2); },
                                          [&] { t.select(0, -1); },
                                          [&] { t.view({4}); },
                                          [&] {
                                            t.view({-1, -1});
                                          },
                                          [&] {
                                            t.view({-1, 4});
                                          },
                                          [&] { t.transpose(0, 1).view({6}); },
                                          [&] {
                                            t.permute({0, 0});
                                          },
                                          [&] { t.permute({0}); },
                                          [&] {
                                            t.permute({0, 2});
                                          },
                                          [&] { t.transpose(0, 2); },
                                          [&] { t.transpose(-3, 0); },
                                          [&] { t.unsqueeze(3); },
                                          [&] { t.unsqueeze(-4); },
                                          [&] { t.squeeze(0); },
                                          [&] { t.squeeze(2); },
                                          [&] { (void)t.dim(2); },
                                          [&] { t.item(); },
                                          [&] { t.data<double>(); },
                                          [&] { t.transpose(0, 1).span<float>(); },
                                          [&] {
                                            t.copy_from(counting({3, 2}));
                                          },
                                          [&] { t.copy_from(Tensor()); },
                                          [&] { Tensor().raw(); },
                                          [&] { Tensor::empty({-1}); },
                                          [&] {
                                            Tensor::from(std::vector<float>{1, 2}, {3});
                                          },
                                          [&] { Tensor::empty({int64_t{1} << 61}, DType::f64); },
                                          [&] { Tensor::empty({int64_t{1} << 56}); }})
    CHECK(message_of(body) != "");
  CHECK(!Tensor().defined());
}

TEST_CASE("empty tensors go through everything") {
  for (DType dtype : kAll) {
    const Tensor t = Tensor::empty({2, 0, 3}, dtype);
    CHECK(t.numel() == 0);
    CHECK(t.nbytes() == 0);
    CHECK(t.is_contiguous());
    CHECK(t.permute({2, 1, 0}).contiguous().numel() == 0);
    CHECK((t.permute({2, 1, 0}).contiguous().strides() == contiguous_strides({3, 0, 2})));
    CHECK(t.to(DType::f64).to_vector().empty());
    CHECK((t.view({0, 7}).shape() == Shape{0, 7}));
    CHECK(t.slice(0, 1, 1).numel() == 0);
    t.fill(3);
    t.copy_from(t.clone());
  }
  CHECK(Tensor::zeros({}).item() == 0);
}

TEST_CASE("strided copies of every shape equal a plain loop") {
  std::mt19937 engine(3);
  const auto pick = [&](int n) { return static_cast<int>(engine() % static_cast<unsigned>(n)); };
  for (int round = 0; round < 300; ++round) {
    const int rank = 1 + pick(5);
    std::vector<int64_t> dims;
    for (int i = 0; i < rank; ++i) dims.push_back(pick(6) == 0 ? 1 : 1 + pick(7));
    // A destination and a source with orders, gaps and (for the source) repeats of their own.
    const auto make = [&](bool repeats) {
      std::vector<int> order(static_cast<size_t>(rank));
      std::iota(order.begin(), order.end(), 0);
      std::shuffle(order.begin(), order.end(), engine);
      std::vector<int64_t> sizes(static_cast<size_t>(rank));
      std::vector<int> back(static_cast<size_t>(rank));
      std::vector<bool> once(static_cast<size_t>(rank));
      for (int i = 0; i < rank; ++i) {
        once[i] = repeats && pick(4) == 0;
        sizes[i] = once[i] ? 1 : dims[order[i]] + pick(2);
        back[order[i]] = i;
      }
      Tensor t = random_tensor(Shape(sizes), engine());
      for (int i = 0; i < rank; ++i)
        if (!once[i]) t = t.slice(i, 0, dims[order[i]]);
      return t.permute(back).expand(Shape(dims));
    };
    const Tensor from = make(true), to = make(false);
    to.copy_from(from);
    bool equal = true;
    std::vector<int64_t> index(dims.size());
    for (int64_t i = 0; i < from.numel(); ++i) {
      int64_t rest = i;
      for (int k = rank - 1; k >= 0; --k) {
        index[k] = rest % dims[k];
        rest /= dims[k];
      }
      equal &= at(from, index) == at(to, index);
    }
    REQUIRE(equal);
  }
}

TEST_CASE("large copies are the same for any number of threads") {
  const Tensor t = random_tensor({70, 300, 11}, 1);
  const Tensor turned = t.permute({2, 0, 1});
  const int before = num_threads();
  set_num_threads(1);
  const Tensor expected = turned.contiguous();
  for (int threads : {2, 3}) {
    set_num_threads(threads);
    CHECK(same_values(turned.contiguous(), expected));
    CHECK(same_values(turned.to(DType::f64).to(DType::f32), expected));
  }
  set_num_threads(before);
}

TEST_CASE("a copy between overlapping views is as if through a third tensor") {
  for (int64_t shift : {1, 3, 100}) {
    const Tensor t = counting({100000});
    const int64_t n = t.numel() - shift;
    t.slice(0, shift, t.numel()).copy_from(t.slice(0, 0, n));
    CHECK(t.data<float>()[shift] == 0);
    CHECK(t.data<float>()[t.numel() - 1] == static_cast<float>(n - 1));
    CHECK(t.data<float>()[50000] == static_cast<float>(50000 - shift));
    const Tensor u = counting({100000});
    u.slice(0, 0, n).copy_from(u.slice(0, shift, u.numel()));
    CHECK(u.data<float>()[50000] == static_cast<float>(50000 + shift));
  }
  const Tensor square = counting({3, 3});
  square.copy_from(square.transpose(0, 1));
  CHECK((square.to_vector() == std::vector<double>{0, 3, 6, 1, 4, 7, 2, 5, 8}));
}

TEST_CASE("values convert between all dtypes") {
  for (DType from : kAll)
    for (DType to : kAll) {
      CAPTURE(dtype_name(from));
      CAPTURE(dtype_name(to));
      const Tensor t = Tensor::from(std::vector<double>{0, 1, 2, 7, 100, 250}, {2, 3}).to(from);
      CHECK((t.to(to).to_vector() == std::vector<double>{0, 1, 2, 7, 100, 250}));
      CHECK((t.transpose(0, 1).to(to).to_vector() == std::vector<double>{0, 7, 1, 100, 2, 250}));
    }
  const Tensor big = Tensor::from(std::vector<int64_t>{INT64_MAX, INT64_MIN}, {2});
  CHECK(big.to(DType::i64).data<int64_t>()[0] == INT64_MAX);
  // Out of range stops at the end of the range; NaN becomes 0.
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const Tensor odd = Tensor::from(std::vector<double>{-3.9, 300, inf, -inf, nan, 255.5}, {6});
  CHECK((odd.to(DType::u8).to_vector() == std::vector<double>{0, 255, 255, 0, 0, 255}));
  CHECK((odd.to(DType::f32).to(DType::i32).to_vector() ==
         std::vector<double>{-3, 300, INT32_MAX, INT32_MIN, 0, 255}));
  CHECK(odd.to(DType::i64).data<int64_t>()[2] == INT64_MAX);
  CHECK(odd.to(DType::i64).data<int64_t>()[3] == INT64_MIN);
  const Tensor ints = Tensor::from(std::vector<int64_t>{-5, 256, INT64_MAX, 4}, {4});
  CHECK((ints.to(DType::u8).to_vector() == std::vector<double>{0, 255, 255, 4}));
  CHECK(odd.to(DType::f32).raw() != odd.raw());
  CHECK(odd.to(DType::f64).raw() == odd.raw());
}

TEST_CASE("wrapped memory is kept alive and read-only where said") {
  auto owner = std::make_shared<std::vector<float>>(std::vector<float>{1, 2, 3, 4});
  std::weak_ptr<std::vector<float>> alive = owner;
  {
    Tensor t = Tensor::wrap(owner->data(), {2, 2}, DType::f32, owner, true);
    owner.reset();
    const Tensor view = t.select(0, 1);
    t = Tensor();
    CHECK((view.to_vector() == std::vector<double>{3, 4}));
    CHECK(view.read_only());
    CHECK(contains(message_of([&] { view.fill(0); }), "read-only"));
    CHECK(!view.clone().read_only());
  }
  CHECK(alive.expired());
  float x = 0;
  CHECK(message_of([&] { Tensor::wrap(&x, {1}, DType::f32, nullptr, true); }) != "");
  CHECK(message_of([&] { Tensor::wrap(&x, {-1}, DType::f32, std::make_shared<int>(1), true); }) !=
        "");
}

TEST_CASE("check_shape names function, tensor and shapes") {
  CHECK(message_of([] { check_shape("rms_norm", "w", Tensor::zeros({3}), {4}); }) ==
        "rms_norm: w has shape (3), expected (4)");
  CHECK(contains(message_of([] { check_shape("f", "w", {}, {4}); }), "(nothing)"));
}
