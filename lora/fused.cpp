#include "lora/fused.h"

#include <algorithm>
#include <cstring>

#include "tensor/error.h"

namespace parlo {
namespace {

constexpr size_t kShared = size_t(-1);  // a column of B with values in several parts
constexpr size_t kNobody = size_t(-2);  // a column of zeros

// Rows of a fourth part that is absent: both models' MLPs widen by four.
constexpr int64_t kMlpRatio = 4;

std::vector<int64_t> part_rows(const AdapterPair& fused, size_t n, const std::string& where) {
  const int64_t rows = fused.b.dim(0), in = fused.a.dim(1), third = n == 3 ? rows / 3 : in;
  const bool fits = n == 3 ? rows % 3 == 0 : rows > 3 * in;
  CHECK(fits, where, ": lora_B ", fused.b.shape(), " and lora_A ", fused.a.shape(),
        " do not divide into ", n, " parts");
  std::vector<int64_t> out(n, third);
  if (n == 4) out[3] = rows - 3 * in;
  return out;
}

// Which part each column of B belongs to.
std::vector<size_t> column_owners(const Tensor& b, const std::vector<int64_t>& rows) {
  const std::vector<double> values = b.to_vector();
  const auto rank = static_cast<size_t>(b.dim(1));
  std::vector<size_t> owners(rank, kNobody);
  size_t at = 0;
  for (size_t part = 0; part < rows.size(); ++part) {
    for (int64_t i = 0; i < rows[part]; ++i) {
      for (size_t c = 0; c < rank; ++c) {
        if (values[at++] == 0 || owners[c] == part) continue;
        owners[c] = owners[c] == kNobody ? part : kShared;
      }
    }
  }
  return owners;
}

// Columns of zeros say nothing: they go to the part that equal ranks would give them to.
bool settle(std::vector<size_t>& owners, size_t n) {
  const size_t rank = owners.size();
  for (size_t c = 0; c < rank; ++c) {
    if (owners[c] != kNobody) continue;
    if (rank % n != 0) return false;
    for (size_t k = 0; k < rank; ++k) {
      if (owners[k] != kNobody && owners[k] != k / (rank / n)) return false;
    }
    for (size_t k = 0; k < rank; ++k) owners[k] = k / (rank / n);
  }
  const bool shared = std::find(owners.begin(), owners.end(), kShared) != owners.end();
  return !shared && std::is_sorted(owners.begin(), owners.end());
}

bool same_bytes(const Tensor& x, const Tensor& y) {
  if (x.dtype() != y.dtype() || !(x.shape() == y.shape())) return false;
  const Tensor a = x.contiguous(), b = y.contiguous();
  return a.raw() == b.raw() || std::memcmp(a.raw(), b.raw(), a.nbytes()) == 0;
}

Tensor stack_rows(const std::vector<Tensor>& parts, DType dtype) {
  int64_t rows = 0;
  for (const Tensor& t : parts) rows += t.dim(0);
  const Tensor out = Tensor::empty({rows, parts.front().dim(1)}, dtype);
  int64_t at = 0;
  for (const Tensor& t : parts) {
    out.slice(0, at, at + t.dim(0)).copy_from(t);
    at += t.dim(0);
  }
  return out;
}

Tensor scaled(const Tensor& t, double factor) {
  const Tensor out = t.to(DType::f32).clone();
  for (float& x : out.span<float>()) x = static_cast<float>(x * factor);
  return out;
}

// Whether every part is there, with the same A, scale and dtype.
bool one_a(const std::vector<const AdapterPair*>& parts) {
  return std::all_of(parts.begin(), parts.end(), [&](const AdapterPair* p) {
    return p && p->scale == parts[0]->scale && p->b.dtype() == parts[0]->b.dtype() &&
           same_bytes(p->a, parts[0]->a);
  });
}

}  // namespace

std::vector<std::optional<AdapterPair>> split_fused(const AdapterPair& fused, size_t n,
                                                    const std::string& where) {
  const std::vector<int64_t> rows = part_rows(fused, n, where);
  std::vector<size_t> owners = column_owners(fused.b, rows);
  const bool block_diagonal = settle(owners, n);
  std::vector<std::optional<AdapterPair>> out(n);
  int64_t row = 0;
  for (size_t part = 0; part < n; row += rows[part++]) {
    const Tensor b = fused.b.slice(0, row, row + rows[part]);
    if (!block_diagonal) {
      out[part] = {fused.a, b, fused.scale};
      continue;
    }
    const auto [first, last] = std::equal_range(owners.begin(), owners.end(), part);
    if (first == last) continue;
    const int64_t begin = first - owners.begin(), end = last - owners.begin();
    out[part] = {fused.a.slice(0, begin, end), b.slice(1, begin, end), fused.scale};
  }
  return out;
}

AdapterPair fuse_parts(const std::vector<const AdapterPair*>& parts) {
  const auto present = [](const AdapterPair* p) { return p != nullptr; };
  const AdapterPair* first = *std::find_if(parts.begin(), parts.end(), present);
  DType dtype = first->b.dtype();
  double scale = first->scale;
  int64_t rank = 0;
  for (const AdapterPair* p : parts) {
    if (!p) continue;
    rank += p->a.dim(0);
    if (scale == 0) scale = p->scale;
    if (p->a.dtype() != dtype || p->b.dtype() != dtype) dtype = DType::f32;
  }
  std::vector<Tensor> a, b;
  if (one_a(parts)) {
    for (const AdapterPair* p : parts) b.push_back(p->b);
    return {parts[0]->a, stack_rows(b, dtype), scale};
  }
  for (const AdapterPair* p : parts) {
    if (p && p->scale != scale) dtype = DType::f32;
  }
  int64_t column = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const AdapterPair* p = parts[i];
    const int64_t width = parts.size() == 3 ? first->b.dim(0) : first->a.dim(1);
    const int64_t rows = p ? p->b.dim(0) : i == 3 ? kMlpRatio * width : width;
    b.push_back(Tensor::zeros({rows, rank}, dtype));
    if (!p) continue;
    a.push_back(p->a);
    const Tensor values = p->scale == scale ? p->b : scaled(p->b, p->scale / scale);
    b.back().slice(1, column, column + p->a.dim(0)).copy_from(values);
    column += p->a.dim(0);
  }
  return {stack_rows(a, dtype), stack_rows(b, dtype), scale};
}

Tensor swap_row_halves(const Tensor& t) {
  const int64_t half = t.dim(0) / 2;
  return stack_rows({t.slice(0, half, t.dim(0)), t.slice(0, 0, half)}, t.dtype());
}

}  // namespace parlo
