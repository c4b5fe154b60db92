#include "lora/merge.h"

#include <cmath>

#include "lora/merge_parts.h"
#include "tensor/error.h"

namespace parlo {
namespace {

AdapterModules collect(const std::vector<std::string>& names, std::vector<AdapterPair> pairs) {
  AdapterModules out;
  for (size_t i = 0; i < names.size(); ++i) out.emplace(names[i], std::move(pairs[i]));
  return out;
}

}  // namespace

AdapterModules merge_concat(std::span<const WeightedAdapter> adapters) {
  const std::vector<std::string> names = merged_modules(adapters);
  std::vector<AdapterPair> pairs(names.size());
  for_modules(names.size(), [&](size_t i) {
    const std::vector<MergePart> parts = parts_of(adapters, names[i]);
    const double scale = common_scale(parts);
    const Factors f = stack(parts, scale);
    pairs[i] = {to_tensor(f.a), to_tensor(f.b), scale};
  });
  return collect(names, std::move(pairs));
}

Tensor merged_delta(std::span<const WeightedAdapter> adapters, const std::string& module,
                    DType dtype) {
  const std::vector<MergePart> parts = parts_of(adapters, module);
  CHECK(!parts.empty(), "merged_delta: no adapter has the module ", module);
  const Factors f = stack(parts, 1);
  return to_tensor(f.b * f.a, dtype);
}

Tensor fold_delta(const Tensor& weight, std::span<const WeightedAdapter> adapters,
                  const std::string& module) {
  const std::vector<MergePart> parts = parts_of(adapters, module);
  if (parts.empty()) return weight.clone();
  const Factors f = stack(parts, 1);
  check_shape("fold_delta", module, weight, {f.b.rows(), f.a.cols()});
  return to_tensor(to_matrix(weight) + f.b * f.a, weight.dtype()).to(weight.device());
}

LowRankMerge merge_svd(std::span<const WeightedAdapter> adapters, int64_t rank, double scale) {
  CHECK(rank >= 1, "merge_svd: rank is ", rank, ", expected at least 1");
  CHECK(scale > 0, "merge_svd: scale is ", scale, ", expected a positive number");
  const std::vector<std::string> names = merged_modules(adapters);
  std::vector<AdapterPair> pairs(names.size());
  std::vector<double> discarded(names.size()), total(names.size());
  for_modules(names.size(), [&](size_t i) {
    const Factors f = stack(parts_of(adapters, names[i]), 1);
    const Qr qr_b = thin_qr(f.b), qr_a = thin_qr(f.a.transpose());
    const Svd svd = thin_svd(qr_b.r * qr_a.r.transpose());
    const Eigen::Index kept = std::min<Eigen::Index>(rank, svd.sigma.size());
    total[i] = svd.sigma.squaredNorm();
    discarded[i] = svd.sigma.tail(svd.sigma.size() - kept).squaredNorm();
    // Zero columns and rows fill up to the asked rank.
    Matrix u = Matrix::Zero(f.b.rows(), rank), v = Matrix::Zero(f.a.cols(), rank);
    const Eigen::VectorXd root = (svd.sigma.head(kept) / scale).cwiseSqrt();
    u.leftCols(kept) = qr_b.q * (svd.u.leftCols(kept) * root.asDiagonal());
    v.leftCols(kept) = qr_a.q * (svd.v.leftCols(kept) * root.asDiagonal());
    pairs[i] = {to_tensor(v.transpose()), to_tensor(u), scale};
  });
  LowRankMerge out;
  double sum_discarded = 0, sum_total = 0;
  for (size_t i = 0; i < names.size(); ++i) {
    out.discarded_energy_of[names[i]] = total[i] > 0 ? discarded[i] / total[i] : 0;
    sum_discarded += discarded[i];
    sum_total += total[i];
  }
  out.energy = sum_total;
  out.discarded_energy = sum_total > 0 ? sum_discarded / sum_total : 0;
  out.modules = collect(names, std::move(pairs));
  return out;
}

AdapterModules merge_factor_mean(std::span<const WeightedAdapter> adapters) {
  const std::vector<std::string> names = merged_modules(adapters);
  AdapterModules out;
  for (const std::string& name : names) {
    const std::vector<MergePart> parts = parts_of(adapters, name);
    CHECK(parts.size() == adapters.size(), "merge_factor_mean: ", adapters.size() - parts.size(),
          " of ", adapters.size(), " adapters lack ", name, "; use an exact merge");
    const AdapterPair& first = *parts.front().pair;
    Matrix a = Matrix::Zero(first.a.dim(0), first.a.dim(1));
    Matrix b = Matrix::Zero(first.b.dim(0), first.b.dim(1));
    for (const MergePart& part : parts) {
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

}  // namespace parlo
