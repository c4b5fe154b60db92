#include "tests/kernels/gpu_kernel_support.h"
#include "tests/kernels/qk_norm_rope_support.h"

namespace parlo::test {
namespace {

constexpr int kAll = kNorm | kRotate | kWeight;

// Operands on the GPU with the same rounded values in f64 on the CPU, whose results are expected.
struct Case {
  GpuInput joint, dout;
  QkNormRope p, p64;
  int64_t kv;
};

Case make_case(const Shape& joint, int64_t kv, int parts, DType dtype, DType weights) {
  Case c{GpuInput(joint, 1, dtype), GpuInput(joint, 2, dtype), {}, {}, kv};
  c.p64 = make_params(joint[1], joint[3], parts, DType::f64);
  c.p = c.p64;
  for (Tensor QkNormRope::*angles : {&QkNormRope::cos, &QkNormRope::sin})
    if (c.p.*angles) c.p.*angles = on_gpu((c.p.*angles).to(DType::f32));
  for (Tensor QkNormRope::*weight : {&QkNormRope::q_weight, &QkNormRope::k_weight}) {
    if (!(c.p.*weight)) continue;
    c.p.*weight = on_gpu((c.p.*weight).to(weights));
    c.p64.*weight = (c.p.*weight).to(Device{}).to(DType::f64);
  }
  return c;
}

QkvHeads gpu_heads(const QkvHeads& x) {
  const auto like = [](const Tensor& t) { return gpu_output(t.shape(), t.dtype()); };
  return {like(x.q), like(x.k), like(x.v)};
}

QkNormRopeGrads gpu_grads(const Case& c) {
  const auto like = [](const Tensor& t) { return t ? gpu_output(t.shape(), t.dtype()) : Tensor(); };
  return {gpu_heads(split_heads(c.joint.gpu, c.kv)), like(c.p.q_weight), like(c.p.k_weight)};
}

void check_grad(const Tensor& got, const Tensor& want, const char* name) {
  INFO(name);
  REQUIRE(got.defined() == want.defined());
  if (got) check_close(got, want);
}

void check_case(const Case& c) {
  INFO(concat(dtype_name(c.joint.gpu.dtype()), ", ", c.joint.gpu.shape(), ", ",
              c.p.norm ? "norm" : "", c.p.cos ? ", rope" : "",
              c.p.style == RopeStyle::halves ? " of halves" : ""));
  const QkvHeads x = split_heads(c.joint.gpu, c.kv), x64 = split_heads(c.joint.reference, c.kv);
  const QkvHeads y = gpu_heads(x), want = like_heads(x64);
  cuda::qk_norm_rope(x, c.p, y);
  cpu::qk_norm_rope(x64, c.p64, want);
  check_close(y.q, want.q);
  check_close(y.k, want.k);
  CHECK(same_gpu_bits(y.v, x.v));
  const QkNormRopeGrads g = gpu_grads(c);
  const auto like = [](const Tensor& t) { return t ? Tensor::empty_like(t) : Tensor(); };
  const QkNormRopeGrads e{like_heads(x64), like(c.p64.q_weight), like(c.p64.k_weight)};
  cuda::qk_norm_rope_backward(x, c.p, split_heads(c.dout.gpu, c.kv), g);
  cpu::qk_norm_rope_backward(x64, c.p64, split_heads(c.dout.reference, c.kv), e);
  check_grad(g.dx.q, e.dx.q, "dq");
  check_grad(g.dx.k, e.dx.k, "dk");
  check_grad(g.dx.v, e.dx.v, "dv");
  check_grad(g.dq_weight, e.dq_weight, "dq_weight");
  check_grad(g.dk_weight, e.dk_weight, "dk_weight");
}

}  // namespace

TEST_CASE("gpu: qk_norm_rope of a fused projection, every mode and head size") {
  for (const DType dtype : kGpuTypes)
    for (int parts = 0; parts < 8; ++parts)
      for (const int64_t D : {2, 6, 40, 64, 96, 128, 160})
        check_case(make_case({2, 3, 5 + 2 * 2, D}, 2, D == 40 ? parts : parts | kWeight, dtype,
                             D % 3 ? dtype : DType::f32));
}

TEST_CASE("gpu: qk_norm_rope of the widest heads, of odd ones, and of many") {
  for (const DType dtype : kGpuTypes) {
    for (const int parts : {kAll, kAll | kHalves})
      check_case(make_case({1, 2, 3, 256}, 1, parts, dtype, dtype));
    check_case(make_case({2, 2, 3, 254}, 1, kAll | kHalves, dtype, dtype));
    check_case(make_case({2, 3, 4, 37}, 1, kNorm | kWeight, dtype, dtype));
    check_case(make_case({2, 3, 4, 1}, 1, 0, dtype, dtype));
    check_case(make_case({2, 70, 9 + 2 * 3, 64}, 3, kAll, dtype, DType::f32));
  }
}

TEST_CASE("gpu: qk_norm_rope in place, into a longer sequence, heads first, and not aligned") {
  for (const DType dtype : kGpuTypes) {
    const Case c = make_case({2, 5, 7, 32}, 2, kAll | kHalves, dtype, dtype);
    const QkvHeads x = split_heads(c.joint.gpu, 2), y = gpu_heads(x);
    cuda::qk_norm_rope(x, c.p, y);
    const Tensor longer = gpu_output({2, 8, 7, 32}, dtype);
    const QkvHeads part = split_heads(longer.slice(1, 2, 7), 2);
    cuda::qk_norm_rope(x, c.p, part);
    CHECK(same_gpu_bits(part.q, y.q));
    const Tensor heads_first = gpu_output({2, 3, 5, 32}, dtype).permute({0, 2, 1, 3});
    cuda::qk_norm_rope({x.q, {}, {}}, c.p, {heads_first, {}, {}});
    CHECK(same_gpu_bits(heads_first, y.q));
    const Tensor over = c.joint.gpu.clone();
    cuda::qk_norm_rope(split_heads(over, 2), c.p, split_heads(over, 2));
    CHECK(same_gpu_bits(over, joined_heads(y)));
    Case off = c;
    off.joint.gpu = shifted(c.joint.gpu), off.dout.gpu = shifted(c.dout.gpu);
    check_case(off);
    off = c;
    off.p.cos = shifted(c.p.cos), off.p.q_weight = shifted(c.p.q_weight);
    check_case(off);
  }
}

TEST_CASE("gpu: gradients of qk_norm_rope alone, over dout, and with the same bits") {
  for (const DType dtype : kGpuTypes) {
    const Case c = make_case({2, 45, 7, 64}, 2, kAll, dtype, dtype);
    const QkvHeads x = split_heads(c.joint.gpu, 2), dout = split_heads(c.dout.gpu, 2);
    const QkNormRopeGrads all = gpu_grads(c), again = gpu_grads(c);
    cuda::qk_norm_rope_backward(x, c.p, dout, all);
    cuda::qk_norm_rope_backward(x, c.p, dout, again);
    CHECK(same_gpu_bits(again.dq_weight, all.dq_weight));
    const Tensor over = c.dout.gpu.clone(), alone = gpu_output({64}, dtype);
    cuda::qk_norm_rope_backward(x, c.p, split_heads(over, 2), {split_heads(over, 2), {}, {}});
    CHECK(same_gpu_bits(over, joined_heads(all.dx)));  // frozen norms
    cuda::qk_norm_rope_backward(x, c.p, dout, {{}, {}, alone});
    CHECK(same_gpu_bits(alone, all.dk_weight));
    // A sample has the same bits in any batch.
    const auto last = [](const QkvHeads& t) {
      return QkvHeads{t.q.slice(0, 1, 2), t.k.slice(0, 1, 2), t.v.slice(0, 1, 2)};
    };
    const QkvHeads one = gpu_heads(last(x));
    cuda::qk_norm_rope_backward(last(x), c.p, last(dout), {one, {}, {}});
    CHECK(same_gpu_bits(one.q, last(all.dx).q));
    CHECK(same_gpu_bits(one.k, last(all.dx).k));
  }
}

TEST_CASE("gpu: qk_norm_rope of nothing, and what it refuses") {
  const Case c = make_case({0, 3, 3, 8}, 1, kAll, DType::bf16, DType::f32);
  check_case(c);
  check_case(make_case({2, 0, 3, 8}, 1, kNorm, DType::f32, DType::f32));
  cuda::qk_norm_rope({}, {}, {});
  const auto message = [](const Tensor& x, const QkNormRope& p, const Tensor& y) {
    return message_of([&] { cuda::qk_norm_rope({x, {}, {}}, p, {y, {}, {}}); });
  };
  const Tensor x = gpu_output({1, 3, 2, 8}), wide = gpu_output({1, 1, 1, 258});
  CHECK(contains(message(wide, {}, wide), "expected at most 256"));
  CHECK(contains(message(x, {}, Tensor::zeros({1, 3, 2, 8})), "operands lie on"));
  CHECK(contains(message(x, {}, gpu_output({1, 3, 2, 8}, DType::bf16)), "q has dtype"));
  CHECK(contains(message(x, make_params(4, 8, kRotate, DType::f32), x), "qk_norm_rope: cos"));
}

}  // namespace parlo::test
