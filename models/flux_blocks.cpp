#include "models/flux_blocks.h"

namespace parlo {

FluxDoubleBlock::FluxDoubleBlock(const Scope& scope, int64_t heads, int64_t head_dim)
    : name(scope.prefix()) {
  const int64_t width = heads * head_dim;
  norm1 = AdaLayerNorm(scope / "norm1", width, 6);
  norm1_context = AdaLayerNorm(scope / "norm1_context", width, 6);
  const Scope attn = scope / "attn";
  image = QkvStream(attn, heads, head_dim, true, kImageQkv);
  text = QkvStream(attn, heads, head_dim, true, kTextQkv);
  to_out = Linear(attn / "to_out.0", width, width);
  to_add_out = Linear(attn / "to_add_out", width, width);
  ff = FeedForward(scope / "ff", width, 4 * width);
  ff_context = FeedForward(scope / "ff_context", width, 4 * width);
}

void FluxDoubleBlock::operator()(Var& x, Var& c, const Var& silu_temb,
                                 const JointRotation& at) const {
  // Shift, scale, gate for attention, then the same for the MLP.
  const std::vector<Var> m = norm1(silu_temb), n = norm1_context(silu_temb);
  const QkvStream::Out a = image(modulate(x, m[0], m[1]), at.image);
  const QkvStream::Out b = text(modulate(c, n[0], n[1]), at.text);
  const TokenVars o = joint_attention({b.q, a.q}, {b.k, a.k}, {b.v, a.v}, plain_attention(a.q));
  x = to_out.gated(join_heads(o.second), m[2], x);
  x = ff.gated(modulate(x, m[3], m[4]), m[5], x);
  c = to_add_out.gated(join_heads(o.first), n[2], c);
  c = ff_context.gated(modulate(c, n[3], n[4]), n[5], c);
}

Linears FluxDoubleBlock::linears() {
  return {&norm1.linear,  &norm1_context.linear,
          &image.q,       &image.k,
          &image.v,       &text.q,
          &text.k,        &text.v,
          &to_out,        &to_add_out,
          &ff.in,         &ff.out,
          &ff_context.in, &ff_context.out};
}

FluxSingleBlock::FluxSingleBlock(const Scope& scope, int64_t heads, int64_t head_dim)
    : name(scope.prefix()) {
  const int64_t width = heads * head_dim;
  norm = AdaLayerNorm(scope / "norm", width, 3);
  attn = QkvStream(scope / "attn", heads, head_dim, true, kImageQkv);
  proj_mlp = Linear(scope / "proj_mlp", width, 4 * width);
  proj_out = Linear(scope / "proj_out", 5 * width, width);
}

Var FluxSingleBlock::operator()(const Var& x, const Var& silu_temb, const Rotation& at) const {
  const std::vector<Var> m = norm(silu_temb);  // shift, scale, gate
  const Var y = modulate(x, m[0], m[1]);
  const QkvStream::Out s = attn(y, at);
  const Var o = join_heads(attention(s.q, s.k, s.v, plain_attention(s.q)));
  const Var both = cat(std::vector<Var>{o, proj_mlp(y, Activation::gelu_tanh)}, 2);
  return proj_out.gated(both, m[2], x);
}

Linears FluxSingleBlock::linears() {
  return {&norm.linear, &attn.q, &attn.k, &attn.v, &proj_mlp, &proj_out};
}

}  // namespace parlo
