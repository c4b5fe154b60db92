// Decode attention on a GPU against the CPU's in f64 on the same rounded inputs, and that a
// sequence gives the same bits whatever is computed beside it.
#include "kernels/decode.h"

#include "tests/kernels/gpu_kernel_support.h"

namespace parlo::test {
namespace {

constexpr double kScale = 0.3;

struct Sizes {
  int64_t prompts, group, tq, heads, kv_heads, d;
  int64_t own, prefix;  // tokens of the longest; no prefix: none at all
};

struct Problem {
  Tensor q;
  KvCache cache;
};

Tensor lengths(int64_t n, int64_t most) {
  std::vector<int64_t> values;  // the longest, none, odd ones
  for (int64_t i = 0; i < n; ++i) values.push_back(i % 3 == 0 ? most : (i % 3 - 1) * most * 2 / 3);
  return Tensor::from(values, {n});
}

Problem make(const Sizes& s, DType dtype) {
  const int64_t batch = s.prompts * s.group, room = s.own + s.tq + 3;
  const auto random = [&](int64_t n, int64_t tokens, int64_t heads, uint32_t seed) {
    return random_tensor({n, tokens, heads, s.d}, seed, dtype);
  };
  Problem p{random(batch, s.tq, s.heads, 1), {}};
  p.cache.k = random(batch, room, s.kv_heads, 2), p.cache.v = random(batch, room, s.kv_heads, 3);
  p.cache.lengths = lengths(batch, s.own);
  if (s.prefix == 0) return p;
  p.cache.prefix_k = random(s.prompts, s.prefix + 2, s.kv_heads, 4);
  p.cache.prefix_v = random(s.prompts, s.prefix + 2, s.kv_heads, 5);
  p.cache.prefix_lengths = lengths(s.prompts, s.prefix);
  return p;
}

template <class Fn>
Problem each(const Problem& p, Fn fn) {
  const KvCache& c = p.cache;
  return {fn(p.q), {fn(c.k), fn(c.v), c.lengths, fn(c.prefix_k), fn(c.prefix_v), c.prefix_lengths}};
}
Problem moved(const Problem& p) {
  Problem m = each(p, on_gpu);
  m.cache.lengths = on_gpu(p.cache.lengths);
  m.cache.prefix_lengths = on_gpu(p.cache.prefix_lengths);
  return m;
}

Tensor run_gpu(const Problem& p) {
  const Tensor out = gpu_output(p.q.shape(), p.q.dtype());
  cuda::decode_attention(p.q, p.cache, kScale, out);
  return out;
}
Tensor run_cpu(const Problem& p) {
  const Problem plain = each(p, [](const Tensor& t) { return t ? t.to(DType::f64) : t; });
  const Tensor out = Tensor::empty_like(plain.q);
  cpu::decode_attention(plain.q, plain.cache, kScale, out);
  return out;
}

void check_against_cpu(const Sizes& s, DType dtype) {
  INFO(dtype_name(dtype), " P ", s.prompts, " G ", s.group, " Tq ", s.tq, " H ", s.heads, " Hkv ",
       s.kv_heads, " D ", s.d, " own ", s.own, " prefix ", s.prefix);
  const Problem p = make(s, dtype);
  check_close(run_gpu(moved(p)), run_cpu(p), tolerance(dtype));
}

}  // namespace

TEST_CASE("gpu: decode attention against the CPU") {
  for (const DType dtype : kGpuTypes) {
    check_against_cpu({1, 1, 1, 1, 1, 64, 0, 0}, dtype);
    check_against_cpu({2, 3, 1, 2, 2, 64, 20, 30}, dtype);
    check_against_cpu({3, 2, 3, 4, 2, 16, 17, 33}, dtype);
    check_against_cpu({1, 18, 1, 2, 2, 32, 5, 40}, dtype);  // two tiles of rows of the prefix
    check_against_cpu({2, 1, 8, 8, 2, 24, 40, 1}, dtype);
  }
}

TEST_CASE("gpu: decode attention over several splits") {
  for (const DType dtype : kGpuTypes) {
    check_against_cpu({1, 2, 2, 2, 1, 16, 300, 0}, dtype);
    check_against_cpu({1, 2, 1, 1, 1, 8, 254, 530}, dtype);
    check_against_cpu({1, 3, 2, 1, 1, 8, 255, 256}, dtype);  // the second query starts a split
  }
}

TEST_CASE("gpu: decode attention of every head size") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {1, 5, 36, 63, 65, 80, 128, 129, 160, 256}) {
      check_against_cpu({1, 2, 2, 2, 1, d, 19, 9}, dtype);
    }
  }
}

TEST_CASE("gpu: a sequence has the same bits alone, in any group, with more room, and again") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {64, 128, 136}) {
      const Sizes s{2, 9, 2, 2, 1, d, 260, 40};
      const Problem p = moved(make(s, dtype));
      const Tensor all = run_gpu(p);
      CHECK(same_gpu_bits(run_gpu(p), all));
      const auto one = [](const Tensor& t, int64_t i) { return t.slice(0, i, i + 1); };
      for (const int64_t b : {0, 2, 10, 17}) {
        const KvCache& c = p.cache;
        const KvCache part{one(c.k, b),
                           one(c.v, b),
                           one(c.lengths, b),
                           one(c.prefix_k, b / 9),
                           one(c.prefix_v, b / 9),
                           one(c.prefix_lengths, b / 9)};
        CHECK(same_gpu_bits(run_gpu({one(p.q, b), part}), one(all, b)));
      }
      Problem wide = p;  // the same keys in a larger room, and as a slice of it
      for (Tensor* t : {&wide.cache.k, &wide.cache.v}) {
        const Tensor room = gpu_output({18, 600, 1, d}, dtype);
        room.slice(1, 0, t->dim(1)).copy_from(*t);
        *t = room;
      }
      CHECK(same_gpu_bits(run_gpu(wide), all));
      for (Tensor* t : {&wide.cache.k, &wide.cache.v}) *t = t->slice(1, 0, 263);
      CHECK(same_gpu_bits(run_gpu(wide), all));
    }
  }
}

TEST_CASE("gpu: decode attention of slices, and where nothing starts on 16 bytes") {
  for (const DType dtype : kGpuTypes) {
    const Problem p = make({2, 2, 1, 4, 2, 32, 21, 11}, dtype);
    const Tensor want = run_cpu(p);
    for (const int64_t skip : {0, 1}) {
      const auto slice_of = [&](const Tensor& t) {  // rows of D + 8, every second token
        const Shape wide = {t.dim(0), t.dim(1), 2, t.dim(2), t.dim(3) + 8};
        const Tensor part = gpu_output(wide, dtype).select(2, 1).slice(3, skip, skip + t.dim(3));
        part.copy_from(on_gpu(t));
        return part;
      };
      Problem sliced = each(p, slice_of);
      sliced.cache.lengths = on_gpu(p.cache.lengths);
      sliced.cache.prefix_lengths = on_gpu(p.cache.prefix_lengths);
      const Tensor out = slice_of(Tensor::zeros(p.q.shape(), dtype));
      cuda::decode_attention(sliced.q, sliced.cache, kScale, out);
      check_close(out, want, tolerance(dtype));
    }
  }
}

TEST_CASE("gpu: tokens are appended where each sequence ends, and read with the rest") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {16, 5}) {
      const int64_t batch = 3, tq = 2, heads = 2, room = 6;
      const Tensor qkv = random_tensor({batch, tq, 3, heads, d}, 1, dtype), there = on_gpu(qkv);
      const Tensor at = Tensor::from(std::vector<int64_t>{-1, 0, 4}, {batch});
      const auto cache = [&](Device device) {
        const auto filled = [&] {
          return Tensor::full({batch, room, heads, d}, 0.5, dtype, device);
        };
        return KvCache{filled(), filled(), at.to(device), {}, {}, {}};
      };
      const KvCache got = cache(kGpu), want = cache(Device{});
      cuda::cache_append(there.select(2, 1), there.select(2, 2), got);
      cpu::cache_append(qkv.select(2, 1), qkv.select(2, 2), want);
      CHECK(same_gpu_bits(got.k, want.k));
      CHECK(same_gpu_bits(got.v, want.v));
      const Problem p{qkv.select(2, 0), want};
      check_close(run_gpu({there.select(2, 0), got}), run_cpu(p), tolerance(dtype));
    }
  }
}

TEST_CASE("gpu: idle sequences, no room, nothing to do, and keys beyond the length") {
  for (const DType dtype : kGpuTypes) {
    Problem p = make({1, 3, 2, 1, 1, 16, 20, 0}, dtype);
    p.cache.k.slice(1, 22, 25).fill(std::nan("")), p.cache.v.slice(1, 22, 25).fill(std::nan(""));
    p.cache.lengths = Tensor::from(std::vector<int64_t>{-1, 24, 20}, {3});
    const Problem there = moved(p);
    const Tensor kept = there.cache.k.clone(), out = run_gpu(there);
    CHECK(same_values(out.select(0, 0), Tensor::zeros({2, 1, 16})));
    for (const double x : out.select(0, 1).to_vector()) CHECK(std::isnan(x));
    for (const double x : out.select(0, 2).to_vector()) CHECK(std::isfinite(x));
    cuda::cache_append(there.q, there.q, there.cache);
    CHECK(same_gpu_bits(there.cache.k.slice(0, 0, 1), kept.slice(0, 0, 1)));
    CHECK(same_gpu_bits(there.cache.k.select(0, 1).slice(0, 24, 25),
                        there.q.select(0, 1).slice(0, 0, 1)));

    for (const Sizes& s : {Sizes{0, 1, 1, 2, 2, 8, 3, 3}, Sizes{1, 1, 0, 2, 2, 8, 3, 3},
                           Sizes{1, 1, 1, 0, 2, 8, 3, 3}, Sizes{1, 1, 1, 2, 2, 0, 3, 3}}) {
      const Problem none = moved(make(s, dtype));
      CHECK(run_gpu(none).numel() == 0);
      if (s.heads > 0) cuda::cache_append(none.q, none.q, none.cache);
    }
  }
}

TEST_CASE("gpu: decode attention that does not fit is refused") {
  const auto refusal = [](const Problem& p) { return message_of([&] { run_gpu(p); }); };
  CHECK(contains(refusal(moved(make({1, 1, 1, 3, 2, 8, 4, 0}, DType::f32))), "multiple of the 2"));
  CHECK(contains(refusal(moved(make({1, 1, 1, 1, 1, 257, 4, 0}, DType::bf16))), "at most 256"));
  CHECK(contains(refusal(moved(make({1, 1, 1, 1, 1, 8, 4, 0}, DType::f64))), "f32 or bf16"));
  Problem p = moved(make({1, 1, 1, 1, 1, 8, 4, 2}, DType::f32));
  p.cache.prefix_k = p.cache.prefix_k.to(Device{});
  CHECK(contains(refusal(p), "operands lie on"));
}

}  // namespace parlo::test
