#include "lora/merge.h"

#include <Eigen/Dense>
#include <cmath>
#include <set>

#include "tensor/error.h"
#include "tensor/parallel.h"

namespace parlo {

namespace {

using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

Matrix to_matrix(const Tensor& t) {
  const Tensor values = t.to(Device{}).contiguous().to(DType::f64);
  return Eigen::Map<const Matrix>(values.data<double>(), t.dim(0), t.dim(1));
}

Tensor to_tensor(const Matrix& m, DType dtype = DType::f32) {
  const Tensor out = Tensor::empty({m.rows(), m.cols()}, DType::f64);
  Eigen::Map<Matrix>(out.data<double>(), m.rows(), m.cols()) = m;
  return out.to(dtype);
}

struct Factors {
  Matrix b, a;  // the update is b * a
};

struct Part {
  const AdapterPair* pair;
  double weight;
};

// What the adapters have for one module, shapes checked.
std::vector<Part> parts_of(std::span<const WeightedAdapter> adapters, const std::string& module) {
  std::vector<Part> parts;
  for (size_t i = 0; i < adapters.size(); ++i) {
    const auto found = adapters[i].modules->find(module);
    if (found == adapters[i].modules->end()) continue;
    const AdapterPair& pair = found->second;
    CHECK(pair.a.rank() == 2 && pair.b.rank() == 2 && pair.a.dim(0) == pair.b.dim(1),
          "merge: adapter ", i, ", ", module, ": lora_A ", pair.a.shape(), " and lora_B ",
          pair.b.shape(), " are no pair");
    const AdapterPair& first = parts.empty() ? pair : *parts.front().pair;
    CHECK(pair.a.dim(1) == first.a.dim(1) && pair.b.dim(0) == first.b.dim(0), "merge: adapter ", i,
          ", ", module, ": changes a weight of (", pair.b.dim(0), ", ", pair.a.dim(1),
          "), the others one of (", first.b.dim(0), ", ", first.a.dim(1), ")");
    parts.push_back({&pair, adapters[i].weight});
  }
  return parts;
}

std::vector<std::string> modules_of(std::span<const WeightedAdapter> adapters) {
  CHECK(!adapters.empty(), "merge: no adapter given");
  std::set<std::string> names;
  for (const WeightedAdapter& adapter : adapters) {
    CHECK(adapter.modules != nullptr && std::isfinite(adapter.weight),
          "merge: weights must be finite numbers, got ", adapter.weight);
    for (const auto& [name, pair] : *adapter.modules) names.insert(name);
  }
  return {names.begin(), names.end()};
}

// Stacked factors whose product is the weighted sum divided by `scale`.
Factors stack(const std::vector<Part>& parts, double scale) {
  Eigen::Index rank = 0;
  for (const Part& part : parts) rank += part.pair->a.dim(0);
  Factors out{Matrix(parts.front().pair->b.dim(0), rank),
              Matrix(rank, parts.front().pair->a.dim(1))};
  Eigen::Index at = 0;
  for (const Part& part : parts) {
    const Eigen::Index r = part.pair->a.dim(0);
    out.b.middleCols(at, r) = part.weight * part.pair->scale / scale * to_matrix(part.pair->b);
    out.a.middleRows(at, r) = to_matrix(part.pair->a);
    at += r;
  }
  return out;
}

// R of a thin QR; |m x| = |R x| for every x.
Matrix triangle(const Matrix& m) {
  const Eigen::Index k = std::min(m.rows(), m.cols());
  const Matrix packed = Eigen::HouseholderQR<Matrix>(m).matrixQR().topRows(k);
  return packed.triangularView<Eigen::Upper>();
}

double product_norm(const Factors& f) {
  return (triangle(f.b) * triangle(f.a.transpose()).transpose()).norm();
}

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

// fn(i) for every module, in any order; results go to slot i, so the outcome is the same for any
// number of threads.
template <class Fn>
void for_modules(size_t count, Fn&& fn) {
  parallel_for(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(static_cast<size_t>(i));
  });
}

AdapterModules collect(const std::vector<std::string>& names, std::vector<AdapterPair> pairs) {
  AdapterModules out;
  for (size_t i = 0; i < names.size(); ++i) out.emplace(names[i], std::move(pairs[i]));
  return out;
}

}  // namespace

AdapterModules merge_concat(std::span<const WeightedAdapter> adapters) {
  const std::vector<std::string> names = modules_of(adapters);
  std::vector<AdapterPair> pairs(names.size());
  for_modules(names.size(), [&](size_t i) {
    const std::vector<Part> parts = parts_of(adapters, names[i]);
    double scale = parts.front().pair->scale;
    for (const Part& part : parts) scale = part.pair->scale == scale ? scale : 1;
    if (scale == 0) scale = 1;
    const Factors f = stack(parts, scale);
    pairs[i] = {to_tensor(f.a), to_tensor(f.b), scale};
  });
  return collect(names, std::move(pairs));
}

Tensor merged_delta(std::span<const WeightedAdapter> adapters, const std::string& module,
                    DType dtype) {
  const std::vector<Part> parts = parts_of(adapters, module);
  CHECK(!parts.empty(), "merged_delta: no adapter has the module ", module);
  const Factors f = stack(parts, 1);
  return to_tensor(f.b * f.a, dtype);
}

Tensor fold_delta(const Tensor& weight, std::span<const WeightedAdapter> adapters,
                  const std::string& module) {
  const std::vector<Part> parts = parts_of(adapters, module);
  if (parts.empty()) return weight.clone();
  const Factors f = stack(parts, 1);
  check_shape("fold_delta", module, weight, {f.b.rows(), f.a.cols()});
  return to_tensor(to_matrix(weight) + f.b * f.a, weight.dtype()).to(weight.device());
}

LowRankMerge merge_svd(std::span<const WeightedAdapter> adapters, int64_t rank, double scale) {
  CHECK(rank >= 1, "merge_svd: rank is ", rank, ", expected at least 1");
  CHECK(scale > 0, "merge_svd: scale is ", scale, ", expected a positive number");
  const std::vector<std::string> names = modules_of(adapters);
  std::vector<AdapterPair> pairs(names.size());
  std::vector<double> discarded(names.size()), total(names.size());
  for_modules(names.size(), [&](size_t i) {
    const Factors f = stack(parts_of(adapters, names[i]), 1);
    const Eigen::HouseholderQR<Matrix> qr_b(f.b), qr_a(f.a.transpose());
    const Matrix core = triangle(f.b) * triangle(f.a.transpose()).transpose();
    const Eigen::JacobiSVD<Matrix> svd(core, Eigen::ComputeThinU | Eigen::ComputeThinV);
    const auto& sigma = svd.singularValues();
    const Eigen::Index kept = std::min<Eigen::Index>(rank, sigma.size());
    total[i] = sigma.squaredNorm();
    discarded[i] = sigma.tail(sigma.size() - kept).squaredNorm();
    // Zero columns and rows fill up to the asked rank.
    Matrix u = Matrix::Zero(f.b.rows(), rank), v = Matrix::Zero(f.a.cols(), rank);
    const Eigen::VectorXd root = (sigma.head(kept) / scale).cwiseSqrt();
    u.topLeftCorner(core.rows(), kept) = svd.matrixU().leftCols(kept) * root.asDiagonal();
    v.topLeftCorner(core.cols(), kept) = svd.matrixV().leftCols(kept) * root.asDiagonal();
    u = (qr_b.householderQ() * u).eval();
    v = (qr_a.householderQ() * v).eval();
    pairs[i] = {to_tensor(v.transpose()), to_tensor(u), scale};
  });
  LowRankMerge out;
  double sum_discarded = 0, sum_total = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    out.discarded_energy_of[names[i]] = total[i] > 0 ? discarded[i] / total[i] : 0;
    sum_discarded += discarded[i];
    sum_total += total[i];
  }
  out.discarded_energy = sum_total > 0 ? sum_discarded / sum_total : 0;
  out.modules = collect(names, std::move(pairs));
  return out;
}

AdapterModules merge_factor_mean(std::span<const WeightedAdapter> adapters) {
  const std::vector<std::string> names = modules_of(adapters);
  AdapterModules out;
  for (const std::string& name : names) {
    const std::vector<Part> parts = parts_of(adapters, name);
    CHECK(parts.size() == adapters.size(), "merge_factor_mean: ", adapters.size() - parts.size(),
          " of ", adapters.size(), " adapters lack ", name, "; use an exact merge");
    const AdapterPair& first = *parts.front().pair;
    Matrix a = Matrix::Zero(first.a.dim(0), first.a.dim(1));
    Matrix b = Matrix::Zero(first.b.dim(0), first.b.dim(1));
    for (const Part& part : parts) {
      CHECK(part.pair->a.dim(0) == a.rows() && part.pair->scale == first.scale,
            "merge_factor_mean: ", name, " has ranks ", a.rows(), " and ", part.pair->a.dim(0),
            " and scales ", first.scale, " and ", part.pair->scale,
            "; factors of different ranks or scales have no mean, use an exact merge");
      a += part.weight * to_matrix(part.pair->a);
      b += part.weight * to_matrix(part.pair->b);
    }
    out[name] = {to_tensor(a), to_tensor(b), first.scale};
  }
  return out;
}

double relative_distance(const AdapterModules& x, const AdapterModules& y) {
  const std::vector<WeightedAdapter> both{{&x, 1}, {&y, -1}}, one{{&y, 1}};
  double difference = 0, total = 0;
  for (const std::string& name : modules_of(both)) {
    difference += std::pow(product_norm(stack(parts_of(both, name), 1)), 2);
    const std::vector<Part> parts = parts_of(one, name);
    if (!parts.empty()) total += std::pow(product_norm(stack(parts, 1)), 2);
  }
  if (difference == 0) return 0;
  return std::sqrt(difference / total);
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
      const std::vector<Part> parts = parts_of(one, names[m]);
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
    const std::vector<Part> parts = parts_of(adapters, name);
    const AdapterPair& first = *parts.front().pair;
    if (parts.size() != adapters.size()) return std::nullopt;
    Factors mean{Matrix::Zero(first.b.dim(0), first.b.dim(1)),
                 Matrix::Zero(first.a.dim(0), first.a.dim(1))};
    for (const Part& part : parts) {
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
  const std::vector<std::string> names = modules_of(adapters);
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
