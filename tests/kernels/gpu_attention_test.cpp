// Attention on a GPU against the CPU's in f64 on the same rounded inputs: every head size the
// kernels are built for, masks, grouped heads, strides, and that results do not depend on a batch.
#include "tests/kernels/gpu_attention_support.h"

namespace parlo::test {
namespace {

using Sizes = AttentionTestSizes;
using Problem = AttentionProblem;

struct Answer {
  Tensor out, lse;
};

Answer run_cpu(const Problem& p) {
  const Answer a{Tensor::empty_like(p.q),
                 Tensor::empty({p.q.dim(0), p.q.dim(2), p.q.dim(1)}, p.q.dtype())};
  cpu::attention(p.q, p.k, p.v, a.out, a.lse, p.args);
  return a;
}

void run_gpu(const Problem& p, const Answer& a) {
  cuda::attention(p.q, p.k, p.v, a.out, a.lse, p.args);
}
Answer run_gpu(const Problem& p) {
  const Answer a{gpu_output(p.q.shape(), p.q.dtype()),
                 gpu_output({p.q.dim(0), p.q.dim(2), p.q.dim(1)})};
  run_gpu(p, a);
  return a;
}

void check_answer(const Answer& got, const Answer& want, DType dtype) {
  check_close(got.out, want.out, tolerance(dtype));
  check_close(got.lse, want.lse, tolerance(DType::f32));
}

void check_against_cpu(const Sizes& s, Mask mask, DType dtype) {
  INFO(dtype_name(dtype), " B ", s.batch, " Tq ", s.tq, " Tk ", s.tk, " H ", s.heads, " Hkv ",
       s.kv_heads, " D ", s.d, " mask ", static_cast<int>(mask));
  const Problem p = attention_problem(s, mask, dtype);
  check_answer(run_gpu(moved(p)), run_cpu(converted(p, DType::f64)), dtype);
}

bool same_answer(const Answer& a, const Answer& b) {
  return same_values(a.out, b.out) && same_values(a.lse, b.lse);
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
    check_against_cpu({1, 70, 700, 2, 1, d}, kFull, DType::bf16);
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
      const Problem p{part(qkv, 0), part(qkv, 1), part(qkv, 2), {}, args};
      const Tensor on = on_gpu(qkv), outs = gpu_output({b, h, t, d + 1}, dtype);
      const Problem there{part(on, 0), part(on, 1), part(on, 2), {}, args};
      const Answer got{outs.permute({0, 2, 1, 3}).slice(3, skip, skip + d), gpu_output({b, h, t})};
      run_gpu(there, got);
      check_answer(got, run_cpu(converted(p, DType::f64)), dtype);
      // Nothing beside the views was written.
      const int64_t rest = skip == 1 ? 0 : d;
      CHECK(std::isnan(outs.slice(3, rest, rest + 1).to_vector()[0]));
    }
  }
}

TEST_CASE("gpu: attention gives the same bits again and in any batch") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : {Sizes{3, 70, 90, 4, 2, 64}, Sizes{2, 40, 40, 2, 2, 128}}) {
      const Problem p = moved(attention_problem(s, kCausalLengths, dtype));
      const Answer all = run_gpu(p);
      CHECK(same_answer(run_gpu(p), all));
      for (int64_t b = 0; b < s.batch; ++b) {
        const auto one = [b](const Tensor& x) { return x.slice(0, b, b + 1); };
        Problem alone{one(p.q), one(p.k), one(p.v), {}, p.args};
        alone.args.key_lengths = one(p.args.key_lengths);
        CHECK(same_answer(run_gpu(alone), {one(all.out), one(all.lse)}));
      }
    }
  }
}

TEST_CASE("gpu: attention of empty sizes, and rows without keys") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : {Sizes{0, 3, 3, 2, 2, 8}, Sizes{2, 0, 3, 2, 2, 8},
                           Sizes{2, 3, 0, 2, 2, 8}, Sizes{2, 3, 3, 2, 2, 0}}) {
      const Answer a = run_gpu(moved(attention_problem(s, kFull, dtype)));
      CHECK(same_values(a.out, Tensor::zeros(a.out.shape())));
    }
    const Answer a = run_gpu(moved(attention_problem({1, 9, 4, 1, 1, 16}, kCausal, dtype)));
    CHECK(same_values(a.out.slice(1, 0, 5), Tensor::zeros({1, 5, 1, 16})));
    CHECK(a.lse.to_vector()[0] == -std::numeric_limits<double>::infinity());
  }
}

TEST_CASE("gpu: large scores do not overflow, and a later key may outweigh all before") {
  for (const DType dtype : kGpuTypes) {
    Problem p = attention_problem({1, 20, 150, 1, 1, 16}, kFull, dtype);
    p.args.scale = 20;
    const Answer got = run_gpu(moved(p)), want = run_cpu(converted(p, DType::f64));
    // Scores of 300 carry an error of 2e-5 in f32, which the exponential passes on.
    check_close(got.out, want.out, dtype == DType::f32 ? 1e-3 : tolerance(dtype));
    check_close(got.lse, want.lse, tolerance(DType::f32));
  }
}

TEST_CASE("gpu: NaN reaches its own row, and none where it is masked") {
  for (const DType dtype : kGpuTypes) {
    Problem p = attention_problem({1, 20, 70, 1, 1, 16}, kHoles, dtype);
    p.q.slice(1, 3, 4).slice(3, 2, 3).fill(std::nan(""));
    p.k.slice(1, 67, 68).fill(std::nan(""));  // hidden
    p.v.slice(1, 1, 2).fill(std::nan(""));    // hidden
    const Answer a = run_gpu(moved(p));
    const std::vector<double> out = a.out.to_vector();
    for (size_t i = 0; i < 20; ++i) {
      CHECK(std::isnan(out[i * 16]) == (i == 3));
    }
  }
  for (const int64_t d : {64, 128}) {
    Problem p = attention_problem({1, 150, 300, 1, 1, d}, kLengths, DType::bf16);
    const Answer a = run_gpu(moved(p));
    for (const Tensor& x : {p.k, p.v}) x.slice(1, 200, 300).fill(std::nan(""));  // hidden
    CHECK(same_answer(run_gpu(moved(p)), a));
  }
}

TEST_CASE("gpu: attention that does not fit is refused") {
  const auto refusal = [](const Sizes& s, DType dtype, DType lse) {
    const Problem p = moved(attention_problem(s, kFull, dtype));
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
  Problem p = moved(attention_problem({1, 4, 4, 1, 1, 8}, kLengths, DType::f32));
  p.args.key_lengths = p.args.key_lengths.to(Device{});
  CHECK(contains(message_of([&] { run_gpu(p); }), "operands lie on"));
}

}  // namespace parlo::test
