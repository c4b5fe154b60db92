// What the merges share: an adapter's factors of one module as f64 matrices; not for anyone else.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "lora/decompositions.h"
#include "lora/merge.h"
#include "tensor/parallel.h"

namespace parlo {

Matrix to_matrix(const Tensor& t);
Tensor to_tensor(const Matrix& m, DType dtype = DType::f32);

struct Factors {
  Matrix b, a;  // the update is b * a
};

struct MergePart {
  const AdapterPair* pair;
  double weight;
  size_t adapter;  // its place among all
};

// What the adapters have for one module, shapes checked.
std::vector<MergePart> parts_of(std::span<const WeightedAdapter> adapters,
                                const std::string& module);

// The scale of all, or 1 where they differ or have none.
double common_scale(const std::vector<MergePart>& parts);

// Stacked factors whose product is the weighted sum divided by `scale`.
Factors stack(const std::vector<MergePart>& parts, double scale);

// |b a|, Frobenius.
double product_norm(const Factors& f);

// fn(i) for every module, in any order; results go to slot i, so the outcome is the same for any
// number of threads.
template <class Fn>
void for_modules(size_t count, Fn&& fn) {
  parallel_for(static_cast<int64_t>(count), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) fn(static_cast<size_t>(i));
  });
}

}  // namespace parlo
