#include "rl/pareto.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "tensor/error.h"

namespace parlo {

namespace {

constexpr size_t kMaxRewards = 6;

void check_points(const std::vector<Scores>& points, size_t rewards, const char* function) {
  for (const Scores& point : points) {
    CHECK(point.size() == rewards, function, ": a point has ", point.size(), " scores, expected ",
          rewards);
    for (double x : point) CHECK(std::isfinite(x), function, ": a score is ", x);
  }
}

// One of several equal points stays.
std::vector<Scores> front_of(std::vector<Scores> points) {
  std::sort(points.begin(), points.end(), std::greater<>());
  points.erase(std::unique(points.begin(), points.end()), points.end());
  std::vector<Scores> out;
  // A point is dominated only by lexicographically greater ones, and then also by one of the front.
  for (Scores& p : points) {
    const auto beats = [&](const Scores& q) { return dominates(q, p); };
    if (std::none_of(out.begin(), out.end(), beats)) out.push_back(std::move(p));
  }
  return out;
}

// Points are gains over the reference, all positive, and a front in descending order.
double volume_of_front(const std::vector<Scores>& front) {
  if (front.empty()) return 0;
  double volume = 0;
  if (front[0].size() == 1) return front[0][0];
  if (front[0].size() == 2) {
    double height = 0;
    for (const Scores& p : front) {
      volume += p[0] * (p[1] - height);
      height = p[1];
    }
    return volume;
  }
  // What point i adds to those after it: its box less the part the others cover inside it.
  for (size_t i = 0; i < front.size(); ++i) {
    double box = 1;
    for (double x : front[i]) box *= x;
    std::vector<Scores> inside(front.begin() + static_cast<std::ptrdiff_t>(i) + 1, front.end());
    for (Scores& q : inside) {
      for (size_t k = 0; k < q.size(); ++k) q[k] = std::min(q[k], front[i][k]);
    }
    volume += box - volume_of_front(front_of(std::move(inside)));
  }
  return volume;
}

}  // namespace

bool dominates(std::span<const double> a, std::span<const double> b) {
  CHECK(a.size() == b.size(), "dominates: points have ", a.size(), " and ", b.size(), " scores");
  bool better = false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] < b[i]) return false;
    better = better || a[i] > b[i];
  }
  return better;
}

std::vector<size_t> non_dominated(const std::vector<Scores>& points) {
  if (!points.empty()) check_points(points, points[0].size(), "non_dominated");
  std::vector<size_t> out;
  for (size_t i = 0; i < points.size(); ++i) {
    const auto beats = [&](const Scores& q) { return dominates(q, points[i]); };
    if (std::none_of(points.begin(), points.end(), beats)) out.push_back(i);
  }
  return out;
}

double hypervolume(const std::vector<Scores>& points, const Scores& reference) {
  CHECK(!reference.empty() && reference.size() <= kMaxRewards, "hypervolume: ", reference.size(),
        " rewards, expected 1 to ", kMaxRewards);
  check_points({reference}, reference.size(), "hypervolume");
  check_points(points, reference.size(), "hypervolume");
  std::vector<Scores> gains;
  for (Scores gain : points) {
    for (size_t k = 0; k < gain.size(); ++k) gain[k] -= reference[k];
    const bool better = std::all_of(gain.begin(), gain.end(), [](double x) { return x > 0; });
    if (better) gains.push_back(std::move(gain));
  }
  return volume_of_front(front_of(std::move(gains)));
}

std::vector<std::vector<double>> pairwise_areas(const std::vector<Scores>& points,
                                                const Scores& reference) {
  check_points(points, reference.size(), "pairwise_areas");
  const size_t n = reference.size();
  std::vector<std::vector<double>> out(n, std::vector<double>(n));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i + 1; j < n; ++j) {
      std::vector<Scores> pairs;
      for (const Scores& p : points) pairs.push_back({p[i], p[j]});
      out[i][j] = out[j][i] = hypervolume(pairs, {reference[i], reference[j]});
    }
  }
  return out;
}

std::vector<std::vector<double>> simplex_grid(int n, int steps) {
  CHECK(n >= 1 && steps >= 1, "simplex_grid: n is ", n, " and steps is ", steps,
        ", expected at least 1");
  std::vector<std::vector<double>> out;
  std::vector<int> counts(static_cast<size_t>(n), 0);
  const auto fill = [&](const auto& self, size_t at, int left) -> void {
    if (at + 1 == counts.size()) {
      counts[at] = left;
      std::vector<double> weights;
      for (int c : counts) weights.push_back(static_cast<double>(c) / steps);
      out.push_back(std::move(weights));
      return;
    }
    for (int c = left; c >= 0; --c) {
      counts[at] = c;
      self(self, at + 1, left - c);
    }
  };
  fill(fill, 0, steps);
  return out;
}

}  // namespace parlo
