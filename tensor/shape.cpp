#include "tensor/shape.h"

#include <algorithm>

#include "tensor/error.h"

namespace parlo {

Shape::Shape(std::initializer_list<int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}

Shape::Shape(std::span<const int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  CHECK(dims.size() <= kMaxRank, "Shape: at most ", kMaxRank, " dimensions, got ", dims.size());
  for (int i = 0; i < rank_; ++i) {
    CHECK(dims[i] >= -1, "Shape: negative dimension ", dims[i]);
    dims_[i] = dims[i];
  }
}

int64_t Shape::numel() const {
  int64_t n = 1;
  for (int64_t d : *this) {
    int64_t product = 0;
    CHECK(!__builtin_mul_overflow(n, d, &product), "Shape: too many elements in ", *this);
    n = product;
  }
  return n;
}

void Shape::bad_axis(int i) const {
  throw Error(concat("Shape: no axis ", i, " in shape ", *this));
}

void Shape::push_back(int64_t d) {
  insert(rank_, d);
}

void Shape::insert(int at, int64_t d) {
  CHECK(rank_ < kMaxRank, "Shape: at most ", kMaxRank, " dimensions");
  if (at < 0 || at > rank_) bad_axis(at);
  for (int i = rank_; i > at; --i) dims_[i] = dims_[i - 1];
  dims_[at] = d;
  ++rank_;
}

void Shape::erase(int at) {
  if (at < 0 || at >= rank_) bad_axis(at);
  for (int i = at; i + 1 < rank_; ++i) dims_[i] = dims_[i + 1];
  --rank_;
}

bool Shape::operator==(const Shape& other) const {
  return rank_ == other.rank_ && std::equal(begin(), end(), other.begin());
}

std::string to_string(const Shape& s) {
  std::string out = "(";
  for (int i = 0; i < s.rank(); ++i) out += (i ? ", " : "") + std::to_string(s[i]);
  return out + ")";
}

Shape broadcast_shapes(const Shape& a, const Shape& b) {
  Shape out = a.rank() >= b.rank() ? a : b;
  const Shape& shorter = a.rank() >= b.rank() ? b : a;
  const int lead = out.rank() - shorter.rank();
  for (int i = 0; i < shorter.rank(); ++i) {
    const int64_t x = out[lead + i], y = shorter[i];
    CHECK(x == y || x == 1 || y == 1, "shapes ", a, " and ", b, " do not broadcast");
    out[lead + i] = x == 1 ? y : x;
  }
  return out;
}

}  // namespace parlo
