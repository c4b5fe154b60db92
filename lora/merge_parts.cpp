#include "lora/merge_parts.h"

#include <cmath>
#include <set>

#include "tensor/error.h"

namespace parlo {

std::vector<std::string> merged_modules(std::span<const WeightedAdapter> adapters) {
  CHECK(!adapters.empty(), "merge: no adapter given");
  std::set<std::string> names;
  for (const WeightedAdapter& adapter : adapters) {
    CHECK(adapter.modules != nullptr && std::isfinite(adapter.weight),
          "merge: weights must be finite numbers, got ", adapter.weight);
    for (const auto& [name, pair] : *adapter.modules) names.insert(name);
  }
  return {names.begin(), names.end()};
}

Matrix to_matrix(const Tensor& t) {
  const Tensor values = t.to(Device{}).contiguous().to(DType::f64);
  return Eigen::Map<const Matrix>(values.data<double>(), t.dim(0), t.dim(1));
}

Tensor to_tensor(const Matrix& m, DType dtype) {
  const Tensor out = Tensor::empty({m.rows(), m.cols()}, DType::f64);
  Eigen::Map<Matrix>(out.data<double>(), m.rows(), m.cols()) = m;
  return out.to(dtype);
}

std::vector<MergePart> parts_of(std::span<const WeightedAdapter> adapters,
                                const std::string& module) {
  std::vector<MergePart> parts;
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
    parts.push_back({&pair, adapters[i].weight, i});
  }
  return parts;
}

double common_scale(const std::vector<MergePart>& parts) {
  const double scale = parts.front().pair->scale;
  for (const MergePart& part : parts) {
    if (part.pair->scale != scale || scale == 0) return 1;
  }
  return scale;
}

Factors stack(const std::vector<MergePart>& parts, double scale) {
  Eigen::Index rank = 0;
  for (const MergePart& part : parts) rank += part.pair->a.dim(0);
  Factors out{Matrix(parts.front().pair->b.dim(0), rank),
              Matrix(rank, parts.front().pair->a.dim(1))};
  Eigen::Index at = 0;
  for (const MergePart& part : parts) {
    const Eigen::Index r = part.pair->a.dim(0);
    out.b.middleCols(at, r) = part.weight * part.pair->scale / scale * to_matrix(part.pair->b);
    out.a.middleRows(at, r) = to_matrix(part.pair->a);
    at += r;
  }
  return out;
}

double product_norm(const Factors& f) {
  return (triangle(f.b) * triangle(f.a.transpose()).transpose()).norm();
}

}  // namespace parlo
