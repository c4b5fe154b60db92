// Checks of the operands of qk_norm_rope and its backward that both backends make, and its work as
// a list of tensors of heads.
#pragma once

#include <vector>

#include "kernels/checks.h"
#include "kernels/norm_checks.h"
#include "kernels/qk_norm_rope.h"

namespace parlo {

// One of q, k, v. Forward: x -> out. Backward: dout (and x, for a norm) -> out = dx, dweight.
struct HeadsPart {
  const char* name;
  Tensor x, dout, out, weight, dweight;
  bool norm = false, rotates = false;
  // [B, T, H, D], the same of all its tensors.
  const Tensor& any() const { return out ? out : dout; }
};

inline void check_heads_view(std::string_view function, const HeadsPart& part, const Tensor& t) {
  const Tensor& like = part.any();
  CHECK(t.defined(), function, ": ", part.name, " is missing");
  CHECK(t.rank() == 4 && (t.strides()[3] == 1 || t.dim(3) <= 1), function, ": ", part.name,
        " has shape ", t.shape(), ", expected [B, T, H, D] with unit stride in D");
  check_shape(function, part.name, t, like.shape());
  CHECK(t.dtype() == like.dtype(), function, ": ", part.name, " has dtype ", dtype_name(t.dtype()),
        ", expected ", dtype_name(like.dtype()));
}

inline void check_part(std::string_view function, const HeadsPart& part, const HeadsPart& first) {
  const Tensor &t = part.any(), &f = first.any();
  for (const Tensor* view : {&part.x, &part.dout, &part.out})
    if (*view) check_heads_view(function, part, *view);
  CHECK(!part.out || !part.out.read_only(), function, ": ", part.name, " is a read-only mapping");
  CHECK(t.dtype() == f.dtype() && t.dim(0) == f.dim(0) && t.dim(1) == f.dim(1) &&
            t.dim(3) == f.dim(3),
        function, ": ", part.name, " ", t.shape(), " ", dtype_name(t.dtype()), " does not fit ",
        first.name, " ", f.shape(), " ", dtype_name(f.dtype()));
  CHECK(part.norm || !part.weight, function, ": ", part.name, " has a weight, but no norm");
  check_parameter(function, "weight", part.weight, t, t.dim(3));
  check_parameter_grad(function, "dweight", part.dweight, t, t.dim(3));
}

// All parts fit the first and the tables of angles.
inline void check_parts(std::string_view function, const std::vector<HeadsPart>& parts,
                        const QkNormRope& p) {
  for (const HeadsPart& part : parts) check_part(function, part, parts[0]);
  CHECK(p.cos.defined() == p.sin.defined(), function, ": cos and sin come together");
  if (parts.empty() || !p.cos) return;
  const Tensor& x = parts[0].any();
  CHECK(x.dim(3) % 2 == 0, function, ": expected even D to rotate, got ", x.shape());
  const DType angles = x.dtype() == DType::bf16 ? DType::f32 : x.dtype();
  check_operand(function, "cos", p.cos, angles, x.dim(1) * (x.dim(3) / 2));
  check_operand(function, "sin", p.sin, angles, x.dim(1) * (x.dim(3) / 2));
}

inline std::vector<HeadsPart> forward_parts(const QkvHeads& x, const QkNormRope& p,
                                            const QkvHeads& out) {
  const char* name = "qk_norm_rope";
  const bool rotates = p.cos.defined();
  std::vector<HeadsPart> parts;
  for (const HeadsPart& part : {HeadsPart{"q", x.q, {}, out.q, p.q_weight, {}, p.norm, rotates},
                                HeadsPart{"k", x.k, {}, out.k, p.k_weight, {}, p.norm, rotates},
                                HeadsPart{"v", x.v, {}, out.v, {}, {}, false, false}}) {
    if (!part.out) continue;
    check_heads_view(name, part, part.x);
    parts.push_back(part);
  }
  check_parts(name, parts, p);
  return parts;
}

inline std::vector<HeadsPart> backward_parts(const QkvHeads& x, const QkNormRope& p,
                                             const QkvHeads& dout, const QkNormRopeGrads& g) {
  const char* name = "qk_norm_rope_backward";
  const bool rotates = p.cos.defined();
  std::vector<HeadsPart> parts;
  for (const HeadsPart& part :
       {HeadsPart{"q", x.q, dout.q, g.dx.q, p.q_weight, g.dq_weight, p.norm, rotates},
        HeadsPart{"k", x.k, dout.k, g.dx.k, p.k_weight, g.dk_weight, p.norm, rotates},
        HeadsPart{"v", {}, dout.v, g.dx.v, {}, {}, false, false}}) {
    if (!part.out && !part.dweight) continue;
    CHECK((part.norm && part.weight) || !part.dweight, name, ": ", part.name,
          " has no weight to get a gradient");
    check_heads_view(name, part, part.dout);
    if (part.norm) check_heads_view(name, part, part.x);
    parts.push_back(part);
  }
  check_parts(name, parts, p);
  return parts;
}

}  // namespace parlo
