// Decode attention and the cache it reads. One query row at a time over the keys in order; a row's
// work does not depend on any other row.
#include "kernels/decode.h"

#include <cmath>
#include <vector>

#include "kernels/cpu/attention_generic.h"
#include "kernels/cpu/checks.h"
#include "kernels/decode_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

// Own tokens of sequence b before the current ones, negative when it is idle.
int64_t checked_length(const char* function, const DecodeShape& s, const KvCache& cache,
                       int64_t b) {
  const int64_t n = cache.lengths.data<int64_t>()[b];
  CHECK(n < 0 || n + s.tq <= s.room, function, ": sequence ", b, " has ", n, " tokens and gets ",
        s.tq, ", the cache has room for ", s.room);
  return n;
}

template <class T>
struct Decode {
  DecodeShape s;
  T scale;
  Heads<T> q, k, v, prefix_k, prefix_v, out;
  const int64_t *lengths, *prefix_lengths;

  int64_t prefix_length(int64_t b) const {
    if (s.prefixes == 0) return 0;
    return prefix_lengths ? prefix_lengths[b / s.group()] : s.prefix_room;
  }

  // fn(key, value) of every key that query i sees, in order.
  template <class Fn>
  void for_keys(int64_t b, int64_t i, int64_t g, Fn&& fn) const {
    const int64_t p = s.prefixes > 0 ? b / s.group() : 0;
    for (int64_t j = 0; j < prefix_length(b); ++j) fn(prefix_k.row(p, j, g), prefix_v.row(p, j, g));
    for (int64_t j = 0; j <= lengths[b] + i; ++j) fn(k.row(b, j, g), v.row(b, j, g));
  }

  void row(int64_t b, int64_t i, int64_t h) const {
    T* o = out.row(b, i, h);
    std::fill_n(o, s.d, T(0));
    if (lengths[b] < 0) return;
    const int64_t g = h / (s.heads / s.kv_heads);
    std::vector<T> scores;
    scores.reserve(static_cast<size_t>(prefix_length(b) + lengths[b] + i + 1));
    T top = -std::numeric_limits<T>::infinity(), sum = 0;
    for_keys(b, i, g, [&](const T* key, const T*) {
      scores.push_back(scale * dot(q.row(b, i, h), key, s.d));
      top = scores.back() > top || scores.back() != scores.back() ? scores.back() : top;
    });
    const T* score = scores.data();
    for_keys(b, i, g, [&](const T*, const T* value) {
      const T e = std::exp(*score++ - top);
      sum += e;
      for (int64_t c = 0; c < s.d; ++c) o[c] += e * value[c];
    });
    for (int64_t c = 0; c < s.d; ++c) o[c] /= sum;
  }
};

}  // namespace

void cache_append(const Tensor& k, const Tensor& v, const KvCache& cache) {
  const DecodeShape s = check_append(k, v, cache);
  for (int64_t b = 0; b < s.batch; ++b) checked_length("cache_append", s, cache, b);
  for (int64_t b = 0; b < s.batch; ++b) {
    const int64_t n = cache.lengths.data<int64_t>()[b];
    if (n < 0) continue;
    cache.k.select(0, b).slice(0, n, n + s.tq).copy_from(k.select(0, b));
    cache.v.select(0, b).slice(0, n, n + s.tq).copy_from(v.select(0, b));
  }
}

void decode_attention(const Tensor& q, const KvCache& cache, double scale, const Tensor& out) {
  const char* name = "decode_attention";
  const DecodeShape s = check_decode(q, cache, out);
  for (int64_t b = 0; b < s.batch; ++b) checked_length(name, s, cache, b);
  for (int64_t p = 0; p < s.prefixes && cache.prefix_lengths; ++p) {
    const int64_t n = cache.prefix_lengths.data<int64_t>()[p];
    CHECK(n >= 0 && n <= s.prefix_room, name, ": prefix ", p, " has ", n,
          " tokens, the cache has room for ", s.prefix_room);
  }
  if (s.batch * s.tq * s.heads == 0) return;
  visit_float(q.dtype(), name, [&](auto zero) {
    using T = decltype(zero);
    const auto optional = [](const Tensor& t) { return t ? Heads<T>(t) : Heads<T>(); };
    const Decode<T> f{s,
                      static_cast<T>(scale),
                      Heads<T>(q),
                      Heads<T>(cache.k),
                      Heads<T>(cache.v),
                      optional(cache.prefix_k),
                      optional(cache.prefix_v),
                      Heads<T>(out),
                      cache.lengths.data<int64_t>(),
                      data_or_null<int64_t>(cache.prefix_lengths)};
    const int64_t grain = row_grain((s.prefix_room + s.room) * s.d);
    parallel_for(s.batch * s.tq * s.heads, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        f.row(r / s.heads / s.tq, r / s.heads % s.tq, r % s.heads);
      }
    });
  });
}

}  // namespace parlo::cpu
