// Decode attention against attention over the keys of each sequence put side by side.
#include "kernels/decode.h"

#include "kernels/attention.h"
#include "tests/kernels/kernel_support.h"

namespace parlo::test {
namespace {

struct Sizes {
  int64_t prompts, group, tq, heads, kv_heads, d;
};

Tensor i64(const std::vector<int64_t>& values) {
  return Tensor::from(values, {static_cast<int64_t>(values.size())});
}

// Own tokens 0, 1, .. 4, prompts of 0, 3, 6 tokens.
KvCache make(const Sizes& s, DType dtype, bool prefix) {
  const int64_t batch = s.prompts * s.group, room = 4 + s.tq, prefix_room = 7;
  KvCache c;
  c.k = random_tensor({batch, room, s.kv_heads, s.d}, 1, dtype);
  c.v = random_tensor({batch, room, s.kv_heads, s.d}, 2, dtype);
  std::vector<int64_t> lengths, prompts;
  for (int64_t b = 0; b < batch; ++b) lengths.push_back(b % 5);
  for (int64_t p = 0; p < s.prompts; ++p) prompts.push_back(p * 3 % 9);
  c.lengths = i64(lengths);
  if (!prefix) return c;
  c.prefix_k = random_tensor({s.prompts, prefix_room, s.kv_heads, s.d}, 3, dtype);
  c.prefix_v = random_tensor({s.prompts, prefix_room, s.kv_heads, s.d}, 4, dtype);
  c.prefix_lengths = i64(prompts);
  return c;
}

Tensor join(const Tensor& prefix, int64_t n, const Tensor& own, int64_t m) {
  const Tensor all = Tensor::empty({1, n + m, own.dim(1), own.dim(2)}, own.dtype());
  if (n > 0) all.slice(1, 0, n).copy_from(prefix.slice(0, 0, n).unsqueeze(0));
  all.slice(1, n, n + m).copy_from(own.slice(0, 0, m).unsqueeze(0));
  return all;
}

// Every sequence alone, by the training kernel.
Tensor plain(const Tensor& q, const KvCache& c, double scale) {
  const Tensor out = Tensor::empty_like(q);
  for (int64_t b = 0; b < q.dim(0); ++b) {
    const int64_t m = c.lengths.data<int64_t>()[b] + q.dim(1);
    const int64_t p = c.prefix_k ? b / (q.dim(0) / c.prefix_k.dim(0)) : 0;
    int64_t n = 0;
    if (c.prefix_k) {
      n = c.prefix_lengths ? c.prefix_lengths.data<int64_t>()[p] : c.prefix_k.dim(1);
    }
    const auto prefix = [&](const Tensor& x) { return x ? x.select(0, p) : x; };
    AttentionArgs args;
    args.scale = scale, args.causal = true;
    const Tensor lse = Tensor::empty({1, q.dim(2), q.dim(1)}, q.dtype());
    cpu::attention(q.slice(0, b, b + 1), join(prefix(c.prefix_k), n, c.k.select(0, b), m),
                   join(prefix(c.prefix_v), n, c.v.select(0, b), m), out.slice(0, b, b + 1), lse,
                   args);
  }
  return out;
}

Tensor decode(const Tensor& q, const KvCache& c, double scale) {
  const Tensor out = Tensor::full(q.shape(), std::nan(""), q.dtype());
  cpu::decode_attention(q, c, scale, out);
  return out;
}

}  // namespace

TEST_CASE("decode attention: against attention over each sequence's keys") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const Sizes& s : {Sizes{3, 2, 1, 4, 4, 8}, Sizes{1, 5, 3, 4, 2, 6},
                           Sizes{2, 4, 8, 6, 1, 16}, Sizes{4, 1, 2, 1, 1, 1}}) {
      for (const bool prefix : {false, true}) {
        KvCache c = make(s, dtype, prefix);
        const Tensor q = random_tensor({s.prompts * s.group, s.tq, s.heads, s.d}, 5, dtype);
        check_close(decode(q, c, 0.4), plain(q, c, 0.4));
        c.prefix_lengths = {};
        check_close(decode(q, c, 0.4), plain(q, c, 0.4));
      }
    }
  }
}

TEST_CASE("decode attention: token by token as all at once, and what lies beyond is not read") {
  const int64_t batch = 2, tokens = 6;
  const Tensor q = random_tensor({batch, tokens, 4, 8}, 1),
               k = random_tensor({batch, tokens, 2, 8}, 2),
               v = random_tensor({batch, tokens, 2, 8}, 3);
  KvCache c{Tensor::full({batch, 9, 2, 8}, std::nan("")),
            Tensor::full({batch, 9, 2, 8}, std::nan("")),
            i64({0, 0}),
            {},
            {},
            {}};
  const Tensor all = Tensor::empty_like(q), lse = Tensor::empty({batch, 4, tokens});
  AttentionArgs args;
  args.scale = 0.3, args.causal = true;
  cpu::attention(q, k, v, all, lse, args);
  for (int64_t t = 0; t < tokens; t += 2) {
    c.lengths.fill(static_cast<double>(t));
    cpu::cache_append(k.slice(1, t, t + 2), v.slice(1, t, t + 2), c);
    check_close(decode(q.slice(1, t, t + 2), c, 0.3), all.slice(1, t, t + 2));
  }
  CHECK(same_bits(c.k.slice(1, 0, tokens), k));
  CHECK(std::isnan(c.v.slice(1, tokens, 9).to_vector()[0]));
}

TEST_CASE("decode attention: same bits alone, in any group, with more room, on any threads") {
  const Sizes s{2, 3, 2, 4, 2, 8};
  const KvCache c = make(s, DType::f32, true);
  const Tensor q = random_tensor({6, 2, 4, 8}, 5);
  const Tensor all = decode(q, c, 0.4);
  for (int64_t b = 0; b < 6; ++b) {
    const auto one = [&](const Tensor& t, int64_t i) { return t.slice(0, i, i + 1); };
    const KvCache alone{one(c.k, b),
                        one(c.v, b),
                        one(c.lengths, b),
                        one(c.prefix_k, b / 3),
                        one(c.prefix_v, b / 3),
                        one(c.prefix_lengths, b / 3)};
    CHECK(same_bits(decode(one(q, b), alone, 0.4), one(all, b)));
  }
  KvCache wide = c;
  wide.k = Tensor::full({6, 30, 2, 8}, std::nan("")), wide.v = wide.k.clone();
  wide.k.slice(1, 0, c.k.dim(1)).copy_from(c.k), wide.v.slice(1, 0, c.k.dim(1)).copy_from(c.v);
  CHECK(same_bits(decode(q, wide, 0.4), all));
  check_thread_counts([&] { return std::vector<Tensor>{decode(q, c, 0.4)}; });
}

TEST_CASE("decode attention: idle sequences, nothing to do, and faults") {
  KvCache c = make({1, 2, 1, 2, 2, 4}, DType::f32, false);
  c.lengths = i64({-1, 2});
  const Tensor before = c.k.clone(), q = random_tensor({2, 1, 2, 4}, 5);
  CHECK(same_values(decode(q, c, 1).select(0, 0), Tensor::zeros({1, 2, 4})));
  cpu::cache_append(q, q, c);
  CHECK(same_bits(c.k.select(0, 0), before.select(0, 0)));
  CHECK(same_bits(c.k.select(0, 1).slice(0, 2, 3), q.select(0, 1)));
  for (const Shape& shape : {Shape{0, 1, 2, 4}, Shape{2, 0, 2, 4}, Shape{2, 1, 0, 4}}) {
    KvCache none = c;
    if (shape[0] == 0) none = {c.k.slice(0, 0, 0), c.v.slice(0, 0, 0), i64({}), {}, {}, {}};
    CHECK(decode(Tensor::empty(shape), none, 1).numel() == 0);
  }

  const auto fault = [&](const Tensor& x, const KvCache& cache) {
    return message_of([&] { decode(x, cache, 1); });
  };
  c.lengths = i64({1, 5});
  CHECK(contains(fault(q, c), "sequence 1 has 5 tokens and gets 1, the cache has room for 5"));
  CHECK(contains(message_of([&] { cpu::cache_append(q, q, c); }), "room for 5"));
  CHECK(contains(fault(random_tensor({2, 1, 3, 4}, 1), make({1, 2, 1, 2, 2, 4}, DType::f32, true)),
                 "multiple of the 2 heads"));
  KvCache prefixed = make({2, 1, 1, 2, 2, 4}, DType::f32, true);
  prefixed.prefix_lengths = i64({1, 8});
  CHECK(contains(fault(q, prefixed), "prefix 1 has 8 tokens"));
  prefixed.prefix_lengths = Tensor::zeros({2});
  CHECK(contains(fault(q, prefixed), "expected contiguous i64"));
  prefixed.prefix_k = prefixed.prefix_v = Tensor::zeros({3, 7, 2, 4});
  CHECK(contains(fault(q, prefixed), "multiple of the 3 prefixes"));
}

}  // namespace parlo::test
