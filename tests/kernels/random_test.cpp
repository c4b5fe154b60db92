#include "kernels/random.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/random_isa.h"
#include "tests/kernels/kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

Tensor uniform(uint64_t seed, int64_t n) {
  Tensor t = Tensor::empty({n});
  cpu::random_uniform(RandomKey(seed), t);
  return t;
}

Tensor normal(uint64_t seed, int64_t n) {
  Tensor t = Tensor::empty({n});
  cpu::random_normal(RandomKey(seed), t);
  return t;
}

// Kolmogorov-Smirnov distance times sqrt(n); above 1.95 has probability 0.001.
template <class Cdf>
double kolmogorov_smirnov(const Tensor& t, Cdf cdf) {
  std::vector<double> v = t.to_vector();
  std::sort(v.begin(), v.end());
  const double n = static_cast<double>(v.size());
  double worst = 0;
  for (size_t i = 0; i < v.size(); ++i) {
    const double c = cdf(v[i]);
    worst = std::max({worst, std::abs(c - i / n), std::abs(c - (i + 1) / n)});
  }
  return worst * std::sqrt(n);
}

}  // namespace

TEST_CASE("every element comes from its word of its block") {
  const RandomKey key(0x123456789abcdef0ull);
  const Tensor u = Tensor::empty({1003}), z = Tensor::empty({1003});
  cpu::random_uniform(key, u);
  cpu::random_normal(key, z);
  for (int64_t i = 0; i < 1003; ++i) {
    const PhiloxBlock block = key.block(static_cast<uint64_t>(i / 4));
    CHECK(u.data<float>()[i] == uniform_from_bits(block[static_cast<size_t>(i % 4)]));
    const size_t pair = i % 4 < 2 ? 0 : 2;
    const double radius = std::sqrt(-2 * std::log(double{uniform_from_bits(block[pair])}));
    const double angle = 2 * 3.14159265358979323846 * uniform_from_bits(block[pair + 1]);
    const double expected = radius * (i % 2 == 0 ? std::cos(angle) : std::sin(angle));
    CHECK(std::abs(z.data<float>()[i] - expected) <= 1e-6 * radius + 1e-7);
  }
}

TEST_CASE("uniform lies inside (0, 1) and is flat") {
  CHECK(uniform_from_bits(0) > 0);
  CHECK(uniform_from_bits(0xffffffffu) < 1);
  const Tensor u = uniform(1, 200000);
  CHECK(kolmogorov_smirnov(u, [](double x) { return x; }) < 1.95);
}

TEST_CASE("normal has the right moments and distribution") {
  const int64_t n = 400000;
  const Tensor z = normal(7, n);
  double m1 = 0, m2 = 0, m3 = 0, m4 = 0, lag1 = 0, lag2 = 0, largest = 0;
  const float* v = z.data<float>();
  for (int64_t i = 0; i < n; ++i) {
    m1 += v[i];
    m2 += std::pow(v[i], 2);
    m3 += std::pow(v[i], 3);
    m4 += std::pow(v[i], 4);
    lag1 += i ? v[i] * v[i - 1] : 0;
    lag2 += i > 1 ? v[i] * v[i - 2] : 0;
    largest = std::max(largest, std::abs(double{v[i]}));
  }
  const double error = 4 / std::sqrt(static_cast<double>(n));  // four standard errors
  CHECK(std::abs(m1 / n) < error);
  CHECK(std::abs(m2 / n - 1) < error * std::sqrt(2));
  CHECK(std::abs(m3 / n) < error * std::sqrt(15));
  CHECK(std::abs(m4 / n - 3) < error * std::sqrt(96));
  CHECK(std::abs(lag1 / n) < error);
  CHECK(std::abs(lag2 / n) < error);
  CHECK(largest > 4);
  CHECK(largest < 6.5);
  CHECK(kolmogorov_smirnov(z, [](double x) { return 0.5 * std::erfc(-x / std::sqrt(2)); }) < 1.95);
}

TEST_CASE("a prefix is a prefix, threads do not matter, f64 holds the f32 values") {
  for (int64_t n : {0, 1, 3, 4, 17, 64, 65, 1000}) {
    CHECK(same_bits(normal(3, n), normal(3, 5000).slice(0, 0, n)));
    CHECK(same_bits(uniform(3, n), uniform(3, 5000).slice(0, 0, n)));
  }
  CHECK(!same_bits(normal(3, 100), normal(4, 100)));
  check_thread_counts([&] { return std::vector<Tensor>{normal(5, 100001), uniform(5, 100001)}; });
  const Tensor wide = Tensor::empty({1000}, DType::f64);
  cpu::random_normal(RandomKey(3), wide);
  CHECK(same_values(wide, normal(3, 1000)));
  CHECK(
      contains(message_of([] { cpu::random_normal(RandomKey(1), Tensor::empty({4}, DType::i64)); }),
               "f32 or f64"));
}

TEST_CASE("every instruction set draws the same bits") {
  if (cpu::isa() != cpu::Isa::avx512) return;  // nothing to compare with
  const int64_t n = 100001;
  const Tensor a = Tensor::empty({n}), b = Tensor::empty({n});
  cpu::random_avx2.normal(77, 8, a.data<float>(), n);
  cpu::random_avx512.normal(77, 8, b.data<float>(), n);
  CHECK(same_bits(a, b));
  cpu::random_avx2.uniform(77, uint64_t{1} << 35, a.data<float>(), n);
  cpu::random_avx512.uniform(77, uint64_t{1} << 35, b.data<float>(), n);
  CHECK(same_bits(a, b));
  const PhiloxBlock block = RandomKey(77).block((uint64_t{1} << 33) + 5);
  CHECK(a.data<float>()[22] == uniform_from_bits(block[2]));
}
