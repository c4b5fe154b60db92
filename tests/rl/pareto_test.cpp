#include "rl/pareto.h"

#include <numeric>

#include "tests/support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

std::vector<Scores> random_points(int count, int rewards, uint32_t seed) {
  std::mt19937 engine(seed);
  std::uniform_real_distribution<double> uniform(-0.1, 1);
  std::vector<Scores> out(static_cast<size_t>(count), Scores(static_cast<size_t>(rewards)));
  for (Scores& p : out) {
    for (double& x : p) x = uniform(engine);
  }
  return out;
}

// Share of the unit cube that some point covers, by counting samples.
double counted_volume(const std::vector<Scores>& points, int rewards, int samples) {
  std::mt19937 engine(99);
  std::uniform_real_distribution<double> uniform(0, 1);
  int hits = 0;
  Scores x(static_cast<size_t>(rewards));
  for (int i = 0; i < samples; ++i) {
    for (double& value : x) value = uniform(engine);
    hits += std::any_of(points.begin(), points.end(), [&](const Scores& p) {
      for (size_t k = 0; k < x.size(); ++k) {
        if (p[k] < x[k]) return false;
      }
      return true;
    });
  }
  return double(hits) / samples;
}

// Union of boxes by inclusion and exclusion over all subsets.
double included_volume(const std::vector<Scores>& points, const Scores& reference) {
  double volume = 0;
  for (uint32_t subset = 1; subset < (1u << points.size()); ++subset) {
    double box = 1;
    for (size_t k = 0; k < reference.size(); ++k) {
      double low = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < points.size(); ++i) {
        if (subset >> i & 1u) low = std::min(low, points[i][k]);
      }
      box *= std::max(low - reference[k], 0.0);
    }
    volume += __builtin_popcount(subset) % 2 == 1 ? box : -box;
  }
  return volume;
}

}  // namespace

TEST_CASE("domination") {
  CHECK(dominates(Scores{1, 2}, Scores{1, 1}));
  CHECK(!dominates(Scores{1, 1}, Scores{1, 1}));
  CHECK(!dominates(Scores{2, 0}, Scores{1, 1}));
  const std::vector<Scores> points = {{1, 5}, {2, 4}, {2, 3}, {5, 1}, {0, 0}, {2, 4}, {5, 0}};
  CHECK((non_dominated(points) == std::vector<size_t>{0, 1, 3, 5}));
  CHECK(non_dominated({}).empty());
  CHECK_THROWS_AS(non_dominated({{1, 2}, {1}}), Error);
  CHECK_THROWS_AS(non_dominated({{1, NAN}}), Error);
}

TEST_CASE("hypervolumes known by hand") {
  CHECK(hypervolume({}, {0, 0}) == 0);
  CHECK(hypervolume({{3}, {2}}, {1}) == 2);
  CHECK(hypervolume({{1, 3}, {2, 2}, {3, 1}}, {0, 0}) == 6);
  CHECK(hypervolume({{1, 3}, {2, 2}, {3, 1}, {1, 1}, {2, 2}}, {0, 0}) == 6);
  CHECK(hypervolume({{1, 2, 3}}, {0, 0, 0}) == 6);
  CHECK(hypervolume({{2, 1, 1}, {1, 2, 1}, {1, 1, 2}}, {0, 0, 0}) == 4);
  // Two boxes 2 x 2 x 1 and 1 x 1 x 3 share 1.
  CHECK(hypervolume({{2, 2, 1}, {1, 1, 3}}, {0, 0, 0}) == 6);
  CHECK(hypervolume({{1, 1, 1, 1, 1, 1}}, {-1, -1, -1, -1, -1, -1}) == 64);
  // Worse than the reference somewhere: nothing.
  CHECK(hypervolume({{5, -1}, {0, 5}}, {0, 0}) == 0);
  CHECK(hypervolume({{5, -1}, {1, 1}}, {0, 0}) == 1);
  CHECK_THROWS_AS(hypervolume({{1, 2}}, {0, 0, 0}), Error);
  CHECK_THROWS_AS(hypervolume({}, Scores(7)), Error);
}

TEST_CASE("hypervolume equals inclusion-exclusion and sampling for 2 to 6 rewards") {
  for (int rewards = 1; rewards <= 6; ++rewards) {
    const Scores zero(static_cast<size_t>(rewards), 0), low(static_cast<size_t>(rewards), -0.05);
    for (uint32_t seed = 0; seed < 5; ++seed) {
      const std::vector<Scores> few = random_points(10, rewards, seed);
      INFO(rewards, " rewards, seed ", seed);
      CHECK(hypervolume(few, zero) == doctest::Approx(included_volume(few, zero)).epsilon(1e-9));
      CHECK(hypervolume(few, low) == doctest::Approx(included_volume(few, low)).epsilon(1e-9));
    }
    const std::vector<Scores> many = random_points(60, rewards, 7);
    const double exact = hypervolume(many, zero);
    // Points with a negative score cover nothing of the cube, in both. Four standard errors.
    CHECK(std::abs(counted_volume(many, rewards, 40000) - exact) <
          4 * std::sqrt(exact * (1 - exact) / 40000) + 1e-12);
    // Adding a dominated point changes nothing, adding a better one never lowers the volume.
    std::vector<Scores> more = many;
    more.push_back(low);
    CHECK(hypervolume(more, zero) == exact);
    more.push_back(Scores(static_cast<size_t>(rewards), 1));
    CHECK(hypervolume(more, zero) == doctest::Approx(1));
  }
}

TEST_CASE("pairwise areas") {
  const auto areas = pairwise_areas({{1, 3, 2}, {2, 2, 0}}, {0, 0, 1});
  CHECK(areas[0][1] == 5);
  CHECK(areas[1][0] == 5);
  CHECK(areas[0][2] == 1);
  CHECK(areas[1][2] == 3);
  CHECK(areas[1][1] == 0);
}

TEST_CASE("weights on the simplex") {
  const auto grid = simplex_grid(3, 4);
  CHECK(grid.size() == 15);
  CHECK((grid.front() == std::vector<double>{1, 0, 0}));
  CHECK((grid.back() == std::vector<double>{0, 0, 1}));
  for (const auto& w : grid) CHECK(std::accumulate(w.begin(), w.end(), 0.0) == doctest::Approx(1));
  CHECK(std::is_sorted(grid.rbegin(), grid.rend()));
  CHECK((simplex_grid(1, 5) == std::vector<std::vector<double>>{{1}}));
  CHECK(simplex_grid(2, 10).size() == 11);
  CHECK_THROWS_AS(simplex_grid(0, 4), Error);
}
