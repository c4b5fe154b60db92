// Attention on a GPU against the CPU's in f64 on the same rounded inputs: every head size the
// kernels are built for, masks, grouped heads, strides, and that results do not depend on a batch.
#include "kernels/attention.h"

#include "tests/gpu_support.h"

namespace parlo::test {
namespace {

struct Sizes {
  int64_t batch, tq, tk, heads, kv_heads, d;
};
enum Mask { kFull, kCausal, kLengths, kHoles, kCausalLengths, kAll };
constexpr Mask kMasks[] = {kFull, kCausal, kLengths, kHoles, kCausalLengths, kAll};

bool is_causal(Mask m) {
  return m == kCausal || m == kCausalLengths || m == kAll;
}

struct Problem {
  Tensor q, k, v, dout;
  AttentionArgs args;
};
struct Answer {
  Tensor out, lse, dq, dk, dv;
};

Problem make(const Sizes& s, Mask mask, DType dtype) {
  Problem p;
  p.q = random_tensor({s.batch, s.tq, s.heads, s.d}, 1, dtype);
  p.k = random_tensor({s.batch, s.tk, s.kv_heads, s.d}, 2, dtype);
  p.v = random_tensor({s.batch, s.tk, s.kv_heads, s.d}, 3, dtype);
  p.dout = random_tensor({s.batch, s.tq, s.heads, s.d}, 4, dtype);
  p.args.scale = 1 / std::sqrt(static_cast<double>(std::max<int64_t>(1, s.d)));
  p.args.causal = is_causal(mask);
  if (mask == kLengths || mask == kCausalLengths || mask == kAll) {
    std::vector<int64_t> keys;  // none, some, more than there are
    for (int64_t b = 0; b < s.batch; ++b) {
      keys.push_back(b % 3 == 1 ? 0 : (b % 3 == 0 ? s.tk * 2 / 3 : s.tk + 5));
    }
    p.args.key_lengths = Tensor::from(keys, {s.batch});
  }
  if (mask == kHoles || mask == kAll) {
    std::vector<uint8_t> seen;
    for (int64_t i = 0; i < s.batch * s.tk; ++i) seen.push_back(i % 3 != 1);
    p.args.key_mask = Tensor::from(seen, {s.batch, s.tk});
  }
  return p;
}

Problem converted(const Problem& p, DType dtype) {
  return {p.q.to(dtype), p.k.to(dtype), p.v.to(dtype), p.dout.to(dtype), p.args};
}
Problem moved(const Problem& p) {
  AttentionArgs args = p.args;
  args.key_lengths = on_gpu(args.key_lengths), args.key_mask = on_gpu(args.key_mask);
  return {on_gpu(p.q), on_gpu(p.k), on_gpu(p.v), on_gpu(p.dout), args};
}

Answer run_cpu(const Problem& p) {
  const Shape lse = {p.q.dim(0), p.q.dim(2), p.q.dim(1)};
  const Answer a{Tensor::empty_like(p.q), Tensor::empty(lse, p.q.dtype()), Tensor::empty_like(p.q),
                 Tensor::empty_like(p.k), Tensor::empty_like(p.k)};
  cpu::attention(p.q, p.k, p.v, a.out, a.lse, p.args);
  cpu::attention_backward(p.q, p.k, p.v, a.out, a.lse, p.dout, a.dq, a.dk, a.dv, p.args);
  return a;
}

void run_gpu(const Problem& p, const Answer& a) {
  cuda::attention(p.q, p.k, p.v, a.out, a.lse, p.args);
  cuda::attention_backward(p.q, p.k, p.v, a.out, a.lse, p.dout, a.dq, a.dk, a.dv, p.args);
}
Answer run_gpu(const Problem& p) {
  const DType dtype = p.q.dtype();
  const Answer a{gpu_output(p.q.shape(), dtype), gpu_output({p.q.dim(0), p.q.dim(2), p.q.dim(1)}),
                 gpu_output(p.q.shape(), dtype), gpu_output(p.k.shape(), dtype),
                 gpu_output(p.k.shape(), dtype)};
  run_gpu(p, a);
  return a;
}

void check_answer(const Answer& got, const Answer& want, DType dtype) {
  check_close(got.out, want.out, tolerance(dtype));
  check_close(got.lse, want.lse, tolerance(DType::f32));
  check_close(got.dq, want.dq, tolerance(dtype));
  check_close(got.dk, want.dk, tolerance(dtype));
  check_close(got.dv, want.dv, tolerance(dtype));
}

void check_against_cpu(const Sizes& s, Mask mask, DType dtype) {
  INFO(dtype_name(dtype), " B ", s.batch, " Tq ", s.tq, " Tk ", s.tk, " H ", s.heads, " Hkv ",
       s.kv_heads, " D ", s.d, " mask ", static_cast<int>(mask));
  const Problem p = make(s, mask, dtype);
  check_answer(run_gpu(moved(p)), run_cpu(converted(p, DType::f64)), dtype);
}

bool same_answer(const Answer& a, const Answer& b) {
  return same_values(a.out, b.out) && same_values(a.lse, b.lse) && same_values(a.dq, b.dq) &&
         same_values(a.dk, b.dk) && same_values(a.dv, b.dv);
}

}  // namespace

TEST_CASE("gpu: attention against the CPU, with every mask") {
  for (const DType dtype : kGpuTypes) {
    for (const Mask mask : kMasks) {
      check_against_cpu({3, 7, 11, 2, 2, 8}, mask, dtype);
      check_against_cpu({2, 70, 70, 1, 1, 64}, mask, dtype);
      check_against_cpu({1, 33, 100, 4, 2, 40}, mask, dtype);
    }
  }
}

TEST_CASE("gpu: attention of every head size") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {1, 5, 36, 63, 64, 65, 80, 128, 129, 160, 256}) {
      check_against_cpu({1, 20, 37, 2, 1, d}, kCausal, dtype);
    }
    for (const int64_t d : {128, 256}) check_against_cpu({1, 90, 70, 1, 1, d}, kAll, dtype);
  }
}

TEST_CASE("gpu: attention over several tiles of queries and keys") {
  for (const DType dtype : kGpuTypes) {
    check_against_cpu({1, 129, 300, 1, 1, 64}, kFull, dtype);
    check_against_cpu({1, 129, 300, 1, 1, 64}, kCausalLengths, dtype);
    check_against_cpu({1, 300, 129, 1, 1, 64}, kCausal, dtype);
    check_against_cpu({1, 200, 260, 2, 1, 128}, kCausal, dtype);
  }
}

TEST_CASE("gpu: bf16 attention over more keys than a ring of tiles holds") {
  for (const int64_t d : {64, 128}) {
    const Problem p = make({1, 70, 700, 2, 1, d}, kFull, DType::bf16);
    const Problem there = moved(p), plain = converted(p, DType::f64);
    const Tensor out = gpu_output(p.q.shape(), DType::bf16), lse = gpu_output({1, 2, 70});
    const Tensor want = Tensor::empty_like(plain.q),
                 want_lse = Tensor::empty({1, 2, 70}, DType::f64);
    cuda::attention(there.q, there.k, there.v, out, lse, p.args);
    cpu::attention(plain.q, plain.k, plain.v, want, want_lse, p.args);
    check_close(out, want, tolerance(DType::bf16));
    check_close(lse, want_lse, tolerance(DType::f32));
  }
}

TEST_CASE("gpu: attention of queries, keys and values in one tensor, and unaligned") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t skip : {0, 1}) {  // 1: no row starts on 16 bytes
      const int64_t d = 32, b = 2, t = 40, h = 2;
      const auto part = [&](const Tensor& x, int64_t i) {
        return x.select(2, i).slice(3, skip, skip + d);
      };
      AttentionArgs args;
      args.scale = 0.2;
      const Tensor qkv = random_tensor({b, t, 3, h, d + 1}, 7, dtype);
      const Tensor dout = random_tensor({b, h, t, d + 1}, 8, dtype);
      const Problem p{part(qkv, 0), part(qkv, 1), part(qkv, 2),
                      dout.permute({0, 2, 1, 3}).slice(3, skip, skip + d), args};
      const Tensor on = on_gpu(qkv), outs = gpu_output({b, h, t, d + 1}, dtype);
      const Tensor grads = gpu_output({b, t, 3, h, d + 1}, dtype);
      const Problem there{part(on, 0), part(on, 1), part(on, 2),
                          on_gpu(dout).permute({0, 2, 1, 3}).slice(3, skip, skip + d), p.args};
      const Answer got{outs.permute({0, 2, 1, 3}).slice(3, skip, skip + d), gpu_output({b, h, t}),
                       part(grads, 0), part(grads, 1), part(grads, 2)};
      run_gpu(there, got);
      Problem plain = converted(p, DType::f64);
      for (Tensor* x : {&plain.q, &plain.k, &plain.v, &plain.dout}) *x = x->contiguous();
      check_answer(got, run_cpu(plain), dtype);
      // Nothing beside the views was written.
      const int64_t rest = skip == 1 ? 0 : d;
      CHECK(std::isnan(outs.slice(3, rest, rest + 1).to_vector()[0]));
      CHECK(std::isnan(grads.slice(4, rest, rest + 1).to_vector()[0]));
    }
  }
}

TEST_CASE("gpu: attention gives the same bits again and in any batch") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : {Sizes{3, 70, 90, 4, 2, 64}, Sizes{2, 40, 40, 2, 2, 128}}) {
      const Problem p = moved(make(s, kCausalLengths, dtype));
      const Answer all = run_gpu(p);
      CHECK(same_answer(run_gpu(p), all));
      for (int64_t b = 0; b < s.batch; ++b) {
        const auto one = [b](const Tensor& x) { return x.slice(0, b, b + 1); };
        Problem alone{one(p.q), one(p.k), one(p.v), one(p.dout), p.args};
        alone.args.key_lengths = one(p.args.key_lengths);
        CHECK(same_answer(run_gpu(alone),
                          {one(all.out), one(all.lse), one(all.dq), one(all.dk), one(all.dv)}));
      }
    }
  }
}

TEST_CASE("gpu: attention of empty sizes, and rows without keys") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : {Sizes{0, 3, 3, 2, 2, 8}, Sizes{2, 0, 3, 2, 2, 8},
                           Sizes{2, 3, 0, 2, 2, 8}, Sizes{2, 3, 3, 2, 2, 0}}) {
      const Answer a = run_gpu(moved(make(s, kFull, dtype)));
      CHECK(same_values(a.out, Tensor::zeros(a.out.shape())));
      CHECK(same_values(a.dq, Tensor::zeros(a.dq.shape())));
      CHECK(same_values(a.dk, Tensor::zeros(a.dk.shape())));
      CHECK(same_values(a.dv, Tensor::zeros(a.dv.shape())));
    }
    const Answer a = run_gpu(moved(make({1, 9, 4, 1, 1, 16}, kCausal, dtype)));
    CHECK(same_values(a.out.slice(1, 0, 5), Tensor::zeros({1, 5, 1, 16})));
    CHECK(same_values(a.dq.slice(1, 0, 5), Tensor::zeros({1, 5, 1, 16})));
    CHECK(a.lse.to_vector()[0] == -std::numeric_limits<double>::infinity());
  }
}

TEST_CASE("gpu: large scores do not overflow, and a later key may outweigh all before") {
  for (const DType dtype : kGpuTypes) {
    Problem p = make({1, 20, 150, 1, 1, 16}, kFull, dtype);
    p.args.scale = 20;
    const Answer got = run_gpu(moved(p)), want = run_cpu(converted(p, DType::f64));
    // Scores of 300 carry an error of 2e-5 in f32, which the exponential passes on.
    check_close(got.out, want.out, dtype == DType::f32 ? 1e-3 : tolerance(dtype));
    check_close(got.lse, want.lse, tolerance(DType::f32));
  }
}

TEST_CASE("gpu: NaN reaches its own row, and none where it is masked") {
  for (const DType dtype : kGpuTypes) {
    Problem p = make({1, 20, 70, 1, 1, 16}, kHoles, dtype);
    p.q.slice(1, 3, 4).slice(3, 2, 3).fill(std::nan(""));
    p.k.slice(1, 67, 68).fill(std::nan(""));  // hidden
    p.v.slice(1, 1, 2).fill(std::nan(""));    // hidden
    const Answer a = run_gpu(moved(p));
    const std::vector<double> out = a.out.to_vector(), dq = a.dq.to_vector();
    for (size_t i = 0; i < 20; ++i) {
      CHECK(std::isnan(out[i * 16]) == (i == 3));
      CHECK(std::isnan(dq[i * 16]) == (i == 3));
    }
    CHECK(std::isnan(a.dk.to_vector()[0]));
    CHECK(same_values(a.dk.slice(1, 1, 2), Tensor::zeros({1, 1, 1, 16})));
    CHECK(same_values(a.dv.slice(1, 67, 68), Tensor::zeros({1, 1, 1, 16})));
  }
}

TEST_CASE("gpu: attention that does not fit is refused") {
  const auto refusal = [](const Sizes& s, DType dtype, DType lse) {
    const Problem p = moved(make(s, kFull, dtype));
    const Tensor out = gpu_output(p.q.shape(), dtype);
    return message_of([&] {
      cuda::attention(p.q, p.k, p.v, out, gpu_output({s.batch, s.heads, s.tq}, lse), p.args);
    });
  };
  CHECK(contains(refusal({1, 4, 4, 3, 2, 8}, DType::f32, DType::f32), "multiple of the 2 heads"));
  CHECK(contains(refusal({1, 4, 4, 1, 1, 257}, DType::bf16, DType::f32), "at most 256"));
  CHECK(contains(refusal({1, 4, 4, 1, 1, 8}, DType::bf16, DType::bf16), "contiguous f32"));
  CHECK(
      contains(refusal({1, 4, 4, 1, 1, 8}, DType::f64, DType::f32), "expected dtype f32 or bf16"));
  Problem p = moved(make({1, 4, 4, 1, 1, 8}, kLengths, DType::f32));
  p.args.key_lengths = p.args.key_lengths.to(Device{});
  CHECK(contains(message_of([&] { run_gpu(p); }), "operands lie on"));
}

}  // namespace parlo::test
