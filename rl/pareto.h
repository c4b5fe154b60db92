// Comparing models on several rewards at once. Every reward counts as better when higher; a point
// holds one score for each reward.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace parlo {

using Scores = std::vector<double>;

// At least as good everywhere and better somewhere.
bool dominates(std::span<const double> a, std::span<const double> b);

// Indices, ascending, of the points that no other one dominates; equal points all stay.
std::vector<size_t> non_dominated(const std::vector<Scores>& points);

// Volume between the reference and the points: exact, for 1 to 6 rewards (WFG, While et al. 2012).
// A point that is not better than the reference in every reward adds nothing.
double hypervolume(const std::vector<Scores>& points, const Scores& reference);

// Entry (i, j): the hypervolume on rewards i and j alone; zero on the diagonal. A product of many
// gains carries the noise of the smallest, an area only that of two.
std::vector<std::vector<double>> pairwise_areas(const std::vector<Scores>& points,
                                                const Scores& reference);

// All weight vectors of length n whose entries are multiples of 1/steps and sum to 1, in
// descending order: (1, 0, 0), ...
std::vector<std::vector<double>> simplex_grid(int n, int steps);

}  // namespace parlo
