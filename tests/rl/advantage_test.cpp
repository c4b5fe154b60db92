#include "rl/advantage.h"

#include <numeric>

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

const std::vector<double> kRewards{1, 2, 3, 6, 5, 5, 5, 5, -1, 0, 0.5, 100};

double sum_of(const std::vector<double>& values, size_t first, size_t count) {
  return std::accumulate(values.begin() + static_cast<std::ptrdiff_t>(first),
                         values.begin() + static_cast<std::ptrdiff_t>(first + count), 0.0);
}

}  // namespace

TEST_CASE("advantages sum to 0 in every group and equal rewards give exactly 0") {
  for (const bool global : {false, true}) {
    const Advantages a = group_advantages(kRewards, 4, {global, 1e9, 1e-4});
    REQUIRE(a.values.size() == kRewards.size());
    for (size_t g = 0; g < 3; ++g) CHECK(std::abs(sum_of(a.values, 4 * g, 4)) < 1e-12);
    for (size_t i = 4; i < 8; ++i) CHECK(a.values[i] == 0.0);
    CHECK(a.groups == 3);
    CHECK(a.zero_std_groups == 1);
    CHECK(a.reward_mean == doctest::Approx(sum_of(kRewards, 0, 12) / 12));
  }
}

TEST_CASE("a group is divided by its own population deviation, or by that of all samples") {
  // Group 0: mean 3, deviations -2 -1 0 3, variance 14 / 4.
  const double own = std::sqrt(14.0 / 4) + 1e-4;
  const Advantages a = group_advantages(kRewards, 4, {false, 5.0, 1e-4});
  CHECK(a.values[0] == doctest::Approx(-2 / own).epsilon(1e-12));
  CHECK(a.values[3] == doctest::Approx(3 / own).epsilon(1e-12));

  const double mean = sum_of(kRewards, 0, 12) / 12;
  double variance = 0;
  for (double r : kRewards) variance += (r - mean) * (r - mean) / 12;
  const Advantages g = group_advantages(kRewards, 4, {true, 5.0, 1e-4});
  CHECK(g.values[3] == doctest::Approx(3 / (std::sqrt(variance) + 1e-4)).epsilon(1e-12));
}

TEST_CASE("advantages are clipped on both sides") {
  const Advantages a = group_advantages(kRewards, 4, {false, 0.5, 1e-4});
  CHECK(a.values[0] == -0.5);
  CHECK(a.values[3] == 0.5);
  for (double v : a.values) CHECK(std::abs(v) <= 0.5);
}

TEST_CASE("equal rewards that are no binary fraction leave no rounding error behind") {
  // The mean of seven times 0.1 is not 0.1 in binary, and an eps of 0 would blow it up.
  const std::vector<double> equal(7, 0.1);
  const Advantages a = group_advantages(equal, 7, {false, 5.0, 0.0});
  for (double v : a.values) CHECK(v == 0.0);
  CHECK(a.zero_std_groups == 1);
}

TEST_CASE("shifted rewards give the same advantages, scaled ones nearly") {
  std::vector<double> shifted, scaled;
  for (double r : kRewards) {
    shifted.push_back(r + 64);
    scaled.push_back(r * 64);
  }
  const Advantages a = group_advantages(kRewards, 4, {});
  const Advantages b = group_advantages(shifted, 4, {});
  const Advantages c = group_advantages(scaled, 4, {});
  for (size_t i = 0; i < a.values.size(); ++i) {
    CHECK(b.values[i] == doctest::Approx(a.values[i]).epsilon(1e-10));
    CHECK(c.values[i] == doctest::Approx(a.values[i]).epsilon(1e-3));  // eps does not scale
  }
}

TEST_CASE("rewards that are not finite and sizes that do not fit are refused") {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const std::vector<double> rewards{1, bad, 3, 4};
    CHECK(contains(message_of([&] { group_advantages(rewards, 2, {}); }), "not finite"));
  }
  const std::vector<double> five(5, 1.0), none;
  CHECK(contains(message_of([&] { group_advantages(five, 2, {}); }), "5 rewards"));
  CHECK(contains(message_of([&] { group_advantages(none, 2, {}); }), "0 rewards"));
  CHECK(contains(message_of([&] { group_advantages(five, 0, {}); }), "groups of 0"));
}
