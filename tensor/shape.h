// Dimensions of a tensor: at most kMaxRank sizes, stored inline.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <ostream>
#include <span>
#include <string>
#include <vector>

namespace parlo {

class Shape {
 public:
  static constexpr int kMaxRank = 8;

  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  explicit Shape(std::span<const int64_t> dims);
  explicit Shape(const std::vector<int64_t>& dims) : Shape(std::span(dims)) {}

  int rank() const { return rank_; }
  // i in [-rank, rank), else Error.
  int64_t operator[](int i) const { return dims_[axis(i)]; }
  int64_t& operator[](int i) { return dims_[axis(i)]; }
  int64_t numel() const;
  void push_back(int64_t d);
  void insert(int at, int64_t d);
  void erase(int at);

  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + rank_; }
  std::vector<int64_t> vec() const { return {begin(), end()}; }
  bool operator==(const Shape& other) const;

 private:
  size_t axis(int i) const {
    const int at = i < 0 ? i + rank_ : i;
    if (at < 0 || at >= rank_) bad_axis(i);
    return static_cast<size_t>(at);
  }
  [[noreturn]] void bad_axis(int i) const;

  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

// "(2, 3, 4)"
std::string to_string(const Shape& s);
inline std::ostream& operator<<(std::ostream& out, const Shape& s) {
  return out << to_string(s);
}

// The shape two tensors broadcast to (NumPy rules). Throws Error naming both.
Shape broadcast_shapes(const Shape& a, const Shape& b);

}  // namespace parlo
