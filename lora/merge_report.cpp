#include <cmath>

#include "lora/merge_parts.h"
#include "tensor/error.h"

namespace parlo {
namespace {

Factors negated(Factors f) {
  f.b = -f.b;
  return f;
}

Factors joined(const Factors& x, const Factors& y) {
  Factors out{Matrix(x.b.rows(), x.b.cols() + y.b.cols()),
              Matrix(x.a.rows() + y.a.rows(), x.a.cols())};
  out.b << x.b, y.b;
  out.a << x.a, y.a;
  return out;
}

}  // namespace

double relative_distance(std::span<const WeightedAdapter> x, std::span<const WeightedAdapter> y) {
  std::vector<WeightedAdapter> both(x.begin(), x.end());
  for (const WeightedAdapter& w : y) both.push_back({w.modules, -w.weight});
  const std::vector<std::string> names = merged_modules(both);
  std::vector<double> difference(names.size()), total(names.size());
  for_modules(names.size(), [&](size_t i) {
    difference[i] = std::pow(product_norm(stack(parts_of(both, names[i]), 1)), 2);
    const std::vector<MergePart> parts = parts_of(y, names[i]);
    if (!parts.empty()) total[i] = std::pow(product_norm(stack(parts, 1)), 2);
  });
  double sum_difference = 0, sum_total = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    sum_difference += difference[i];
    sum_total += total[i];
  }
  return sum_difference == 0 ? 0 : std::sqrt(sum_difference / sum_total);
}

double relative_distance(const AdapterModules& x, const AdapterModules& y) {
  const WeightedAdapter first{&x, 1}, second{&y, 1};
  return relative_distance({&first, 1}, {&second, 1});
}

namespace {

// <D_i, D_j> of unweighted updates, summed over the modules.
Matrix gram_of_updates(std::span<const WeightedAdapter> adapters,
                       const std::vector<std::string>& names) {
  const auto n = static_cast<Eigen::Index>(adapters.size());
  std::vector<Matrix> grams(names.size(), Matrix::Zero(n, n));
  for_modules(names.size(), [&](size_t m) {
    std::vector<std::optional<Factors>> f(adapters.size());
    for (size_t i = 0; i < adapters.size(); ++i) {
      const std::vector<WeightedAdapter> one{{adapters[i].modules, 1}};
      const std::vector<MergePart> parts = parts_of(one, names[m]);
      if (!parts.empty()) f[i] = stack(parts, 1);
    }
    for (Eigen::Index i = 0; i < n; ++i) {
      for (Eigen::Index j = 0; j <= i; ++j) {
        const auto &x = f[size_t(i)], &y = f[size_t(j)];
        if (!x || !y) continue;
        // tr((B_i A_i)' B_j A_j), through the small products
        const Matrix bb = x->b.transpose() * y->b, aa = x->a * y->a.transpose();
        grams[m](i, j) = grams[m](j, i) = bb.cwiseProduct(aa).sum();
      }
    }
  });
  Matrix sum = Matrix::Zero(n, n);
  for (const Matrix& g : grams) sum += g;
  return sum;
}

// Squared norms of (factor mean - exact) for every module; nothing when the factors do not fit.
std::optional<std::vector<double>> factor_mean_gaps(std::span<const WeightedAdapter> adapters,
                                                    const std::vector<std::string>& names) {
  std::vector<double> gaps;
  for (const std::string& name : names) {
    const std::vector<MergePart> parts = parts_of(adapters, name);
    const AdapterPair& first = *parts.front().pair;
    if (parts.size() != adapters.size()) return std::nullopt;
    Factors mean{Matrix::Zero(first.b.dim(0), first.b.dim(1)),
                 Matrix::Zero(first.a.dim(0), first.a.dim(1))};
    for (const MergePart& part : parts) {
      if (part.pair->a.dim(0) != first.a.dim(0) || part.pair->scale != first.scale) {
        return std::nullopt;
      }
      mean.a += part.weight * to_matrix(part.pair->a);
      mean.b += first.scale * part.weight * to_matrix(part.pair->b);
    }
    gaps.push_back(std::pow(product_norm(joined(mean, negated(stack(parts, 1)))), 2));
  }
  return gaps;
}

}  // namespace

MergeReport report_merge(std::span<const WeightedAdapter> adapters) {
  const std::vector<std::string> names = merged_modules(adapters);
  MergeReport out;
  for (const WeightedAdapter& adapter : adapters) out.weights.push_back(adapter.weight);
  const Matrix gram = gram_of_updates(adapters, names);
  const auto n = gram.rows();
  for (Eigen::Index i = 0; i < n; ++i)
    out.delta_norms.push_back(std::sqrt(std::max(gram(i, i), 0.)));
  for (Eigen::Index i = 0; i < n; ++i) {
    auto& row = out.cosines.emplace_back();
    for (Eigen::Index j = 0; j < n; ++j) {
      const double norms = out.delta_norms[size_t(i)] * out.delta_norms[size_t(j)];
      row.push_back(i == j ? 1 : norms > 0 ? gram(i, j) / norms : 0);
    }
  }
  std::vector<double> exact(names.size());
  for_modules(names.size(), [&](size_t i) {
    exact[i] = std::pow(product_norm(stack(parts_of(adapters, names[i]), 1)), 2);
  });
  double total = 0, gap = 0;
  for (double e : exact) total += e;
  out.merged_norm = std::sqrt(total);
  const auto gaps = factor_mean_gaps(adapters, names);
  if (!gaps) return out;
  for (size_t i = 0; i < names.size(); ++i) {
    gap += (*gaps)[i];
    out.factor_mean_error_of[names[i]] = exact[i] > 0 ? std::sqrt((*gaps)[i] / exact[i]) : 0;
  }
  out.factor_mean_error = total > 0 ? std::sqrt(gap / total) : 0;
  return out;
}

}  // namespace parlo
