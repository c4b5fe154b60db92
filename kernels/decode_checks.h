// What both backends check of a cache and of a decode call, and the sizes they read from it.
#pragma once

#include "kernels/attention_checks.h"
#include "kernels/decode.h"

namespace parlo {

struct DecodeShape {
  int64_t batch = 0, tq = 0, heads = 0, kv_heads = 0, d = 0;
  int64_t room = 0, prefixes = 0, prefix_room = 0;

  int64_t group() const { return prefixes > 0 ? batch / prefixes : 0; }
};

inline void check_lengths(const char* function, const char* name, const Tensor& t, int64_t n) {
  check_shape(function, name, t, {n});
  CHECK(t.dtype() == DType::i64 && t.is_contiguous(), function, ": ", name, " is ",
        dtype_name(t.dtype()), ", expected contiguous i64");
}

// x: q or k, [B, Tq, heads, D].
inline DecodeShape check_cache(const char* function, const Tensor& x, const KvCache& cache) {
  check_heads(function, "k of the cache", cache.k, x.dtype());
  check_heads(function, "v of the cache", cache.v, x.dtype());
  DecodeShape s;
  s.batch = x.dim(0), s.tq = x.dim(1), s.heads = x.dim(2), s.d = x.dim(3);
  s.room = cache.k.dim(1), s.kv_heads = cache.k.dim(2);
  check_shape(function, "k of the cache", cache.k, {s.batch, s.room, s.kv_heads, s.d});
  check_shape(function, "v of the cache", cache.v, cache.k.shape());
  check_lengths(function, "lengths", cache.lengths, s.batch);
  return s;
}

inline DecodeShape check_append(const Tensor& k, const Tensor& v, const KvCache& cache) {
  const char* name = "cache_append";
  check_heads(name, "k", k, k.dtype());
  check_heads(name, "v", v, k.dtype());
  check_shape(name, "v", v, k.shape());
  const DecodeShape s = check_cache(name, k, cache);
  CHECK(s.heads == s.kv_heads, name, ": k has ", s.heads, " heads, the cache ", s.kv_heads);
  return s;
}

inline DecodeShape check_decode(const Tensor& q, const KvCache& cache, const Tensor& out) {
  const char* name = "decode_attention";
  check_heads(name, "q", q, q.dtype());
  check_heads(name, "out", out, q.dtype());
  check_shape(name, "out", out, q.shape());
  DecodeShape s = check_cache(name, q, cache);
  CHECK(s.heads == 0 || (s.kv_heads > 0 && s.heads % s.kv_heads == 0), name, ": q has ", s.heads,
        " heads, expected a multiple of the ", s.kv_heads, " heads of the cache");
  if (!cache.prefix_k) return s;
  check_heads(name, "prefix_k", cache.prefix_k, q.dtype());
  check_heads(name, "prefix_v", cache.prefix_v, q.dtype());
  s.prefixes = cache.prefix_k.dim(0), s.prefix_room = cache.prefix_k.dim(1);
  check_shape(name, "prefix_k", cache.prefix_k, {s.prefixes, s.prefix_room, s.kv_heads, s.d});
  check_shape(name, "prefix_v", cache.prefix_v, cache.prefix_k.shape());
  CHECK(s.batch == 0 || (s.prefixes > 0 && s.batch % s.prefixes == 0), name, ": ", s.batch,
        " sequences, expected a multiple of the ", s.prefixes, " prefixes");
  if (cache.prefix_lengths) check_lengths(name, "prefix_lengths", cache.prefix_lengths, s.prefixes);
  return s;
}

}  // namespace parlo
