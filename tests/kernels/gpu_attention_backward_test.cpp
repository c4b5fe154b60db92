// The gradients of attention on a GPU against the CPU's in f64 on the same rounded inputs, from the
// CPU's own out and lse: every head size the kernels are built for, masks, grouped heads, strides,
// and that results do not depend on a batch.
#include "tests/kernels/gpu_attention_support.h"

namespace parlo::test {
namespace {

using Sizes = AttentionTestSizes;
using Problem = AttentionProblem;

struct Gradients {
  Tensor dq, dk, dv;
};

// What the forward left.
struct Saved {
  Tensor out, lse;
};

Saved forward_cpu(const Problem& p) {
  const Saved saved{Tensor::empty_like(p.q),
                    Tensor::empty({p.q.dim(0), p.q.dim(2), p.q.dim(1)}, p.q.dtype())};
  cpu::attention(p.q, p.k, p.v, saved.out, saved.lse, p.args);
  return saved;
}
Saved moved(const Saved& saved, DType dtype) {
  return {on_gpu(saved.out.to(dtype)), on_gpu(saved.lse.to(DType::f32))};
}

Gradients run_cpu(const Problem& p, const Saved& saved) {
  const Gradients g{Tensor::empty_like(p.q), Tensor::empty_like(p.k), Tensor::empty_like(p.k)};
  cpu::attention_backward(p.q, p.k, p.v, saved.out, saved.lse, p.dout, g.dq, g.dk, g.dv, p.args);
  return g;
}
void run_gpu(const Problem& p, const Saved& saved, const Gradients& g) {
  cuda::attention_backward(p.q, p.k, p.v, saved.out, saved.lse, p.dout, g.dq, g.dk, g.dv, p.args);
}
Gradients run_gpu(const Problem& p, const Saved& saved) {
  const DType dtype = p.q.dtype();
  const Gradients g{gpu_output(p.q.shape(), dtype), gpu_output(p.k.shape(), dtype),
                    gpu_output(p.k.shape(), dtype)};
  run_gpu(p, saved, g);
  return g;
}
// Of a problem on the CPU.
Gradients gradients_of(const Problem& p) {
  return run_gpu(moved(p), moved(forward_cpu(converted(p, DType::f64)), p.q.dtype()));
}

void check_gradients(const Gradients& got, const Gradients& want, DType dtype) {
  check_close(got.dq, want.dq, tolerance(dtype));
  check_close(got.dk, want.dk, tolerance(dtype));
  check_close(got.dv, want.dv, tolerance(dtype));
}

void check_against_cpu(const Sizes& s, Mask mask, DType dtype) {
  INFO(dtype_name(dtype), " B ", s.batch, " Tq ", s.tq, " Tk ", s.tk, " H ", s.heads, " Hkv ",
       s.kv_heads, " D ", s.d, " mask ", static_cast<int>(mask));
  const Problem p = attention_problem(s, mask, dtype), plain = converted(p, DType::f64);
  const Saved saved = forward_cpu(plain);
  check_gradients(run_gpu(moved(p), moved(saved, dtype)), run_cpu(plain, saved), dtype);
}

bool same_gradients(const Gradients& a, const Gradients& b) {
  return same_values(a.dq, b.dq) && same_values(a.dk, b.dk) && same_values(a.dv, b.dv);
}

}  // namespace

TEST_CASE("gpu: attention backward against the CPU, with every mask") {
  for (const DType dtype : kGpuTypes) {
    for (const Mask mask : kMasks) {
      check_against_cpu({3, 7, 11, 2, 2, 8}, mask, dtype);
      check_against_cpu({2, 70, 70, 1, 1, 64}, mask, dtype);
      check_against_cpu({1, 33, 100, 4, 2, 40}, mask, dtype);
    }
  }
  for (const Mask mask : kMasks) check_against_cpu({1, 70, 150, 2, 1, 128}, mask, DType::bf16);
}

TEST_CASE("gpu: attention backward of every head size") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t d : {1, 5, 36, 63, 64, 65, 80, 128, 129, 160, 256}) {
      check_against_cpu({1, 20, 37, 2, 1, d}, kCausal, dtype);
    }
    check_against_cpu({1, 90, 70, 1, 1, 256}, kAll, dtype);
  }
}

TEST_CASE("gpu: attention backward over several tiles of queries and keys") {
  for (const DType dtype : kGpuTypes) {
    check_against_cpu({1, 129, 300, 1, 1, 64}, kCausalLengths, dtype);
    check_against_cpu({1, 300, 129, 1, 1, 64}, kCausal, dtype);
    check_against_cpu({1, 140, 260, 2, 1, 128}, kCausal, dtype);
  }
}

TEST_CASE("gpu: bf16 attention backward over more tiles than a ring holds") {
  for (const int64_t d : {64, 128}) {
    check_against_cpu({1, 130, 100, 3, 1, d}, kCausal, DType::bf16);
    check_against_cpu({1, 10, 600, 1, 1, d}, kHoles, DType::bf16);
  }
}

TEST_CASE("gpu: attention backward of views of one tensor, and unaligned") {
  for (const DType dtype : kGpuTypes) {
    for (const int64_t skip : {0, 1}) {  // 1: no row starts on 16 bytes
      const int64_t d = 32, b = 2, t = 40, h = 2;
      const auto part = [&](const Tensor& x, int64_t i) {
        return x.select(2, i).slice(3, skip, skip + d);
      };
      const auto across = [&](const Tensor& x) {
        return x.permute({0, 2, 1, 3}).slice(3, skip, skip + d);
      };
      AttentionArgs args;
      args.scale = 0.2;
      const Tensor qkv = random_tensor({b, t, 3, h, d + 8}, 7, dtype);
      const Tensor dout = random_tensor({b, h, t, d + 8}, 8, dtype);
      const Problem p{part(qkv, 0), part(qkv, 1), part(qkv, 2), across(dout), args};
      const Problem plain = converted(p, DType::f64);
      const Saved saved = forward_cpu(plain);
      const Tensor on = on_gpu(qkv), grads = gpu_output({b, t, 3, h, d + 8}, dtype);
      const Gradients got{part(grads, 0), part(grads, 1), part(grads, 2)};
      run_gpu({part(on, 0), part(on, 1), part(on, 2), across(on_gpu(dout)), args},
              moved(saved, dtype), got);
      check_gradients(got, run_cpu(plain, saved), dtype);
      // Nothing beside the views was written.
      const int64_t rest = skip == 1 ? 0 : d;
      for (const double x : grads.slice(4, rest, rest + 1).to_vector()) CHECK(std::isnan(x));
    }
  }
}

TEST_CASE("gpu: attention backward gives the same bits again and in any batch") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : {Sizes{3, 70, 90, 4, 2, 64}, Sizes{2, 40, 40, 2, 2, 128}}) {
      const Problem here = attention_problem(s, kCausalLengths, dtype), p = moved(here);
      const Saved saved = moved(forward_cpu(converted(here, DType::f64)), dtype);
      const Gradients all = run_gpu(p, saved);
      CHECK(same_gradients(run_gpu(p, saved), all));
      for (int64_t b = 0; b < s.batch; ++b) {
        const auto one = [b](const Tensor& x) { return x.slice(0, b, b + 1); };
        Problem alone{one(p.q), one(p.k), one(p.v), one(p.dout), p.args};
        alone.args.key_lengths = one(p.args.key_lengths);
        CHECK(same_gradients(run_gpu(alone, {one(saved.out), one(saved.lse)}),
                             {one(all.dq), one(all.dk), one(all.dv)}));
      }
    }
  }
}

TEST_CASE("gpu: attention backward of empty sizes, and rows without keys") {
  for (const DType dtype : kGpuTypes) {
    for (const Sizes& s : {Sizes{0, 3, 3, 2, 2, 8}, Sizes{2, 0, 3, 2, 2, 8},
                           Sizes{2, 3, 0, 2, 2, 8}, Sizes{2, 3, 3, 2, 2, 0}}) {
      const Gradients g = gradients_of(attention_problem(s, kFull, dtype));
      for (const Tensor& x : {g.dq, g.dk, g.dv}) CHECK(same_values(x, Tensor::zeros(x.shape())));
    }
    const Gradients g = gradients_of(attention_problem({1, 9, 4, 1, 1, 16}, kCausal, dtype));
    CHECK(same_values(g.dq.slice(1, 0, 5), Tensor::zeros({1, 5, 1, 16})));
  }
}

TEST_CASE("gpu: in attention backward NaN reaches its own row, and none where it is masked") {
  for (const DType dtype : kGpuTypes) {
    for (const Mask mask : {kHoles, kLengths}) {
      Problem p = attention_problem({1, 20, 70, 1, 1, 16}, mask, dtype);
      p.q.slice(1, 3, 4).slice(3, 2, 3).fill(std::nan(""));
      for (const int64_t hidden : mask == kHoles ? std::vector{1, 67} : std::vector{46, 69}) {
        p.k.slice(1, hidden, hidden + 1).fill(std::nan(""));
        p.v.slice(1, hidden, hidden + 1).fill(std::nan(""));
      }
      const int64_t hidden = mask == kHoles ? 67 : 69;
      const Gradients g = gradients_of(p);
      const std::vector<double> dq = g.dq.to_vector();
      for (size_t i = 0; i < 20; ++i) CHECK(std::isnan(dq[i * 16]) == (i == 3));
      CHECK(std::isnan(g.dk.to_vector()[0]));
      for (const Tensor& x : {g.dk, g.dv}) {
        CHECK(same_values(x.slice(1, hidden, hidden + 1), Tensor::zeros({1, 1, 1, 16})));
      }
    }
  }
}

TEST_CASE("gpu: gradients of another shape are refused") {
  const Problem p = moved(attention_problem({1, 4, 4, 1, 1, 8}, kFull, DType::f32));
  const Gradients g{gpu_output(p.q.shape()), gpu_output({1, 4, 2, 8}), gpu_output(p.k.shape())};
  const Saved saved{gpu_output(p.q.shape()), gpu_output({1, 1, 4})};
  CHECK(contains(message_of([&] { run_gpu(p, saved, g); }), "attention_backward: dk has shape"));
}

}  // namespace parlo::test
