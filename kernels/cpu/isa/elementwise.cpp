#include "kernels/cpu/isa/elementwise_isa.h"

#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/isa/regloop.h"
#include "kernels/cpu/isa/regmath.h"
#include "kernels/cpu/isa/regtrig.h"

namespace parlo::cpu {
namespace {

// Functions as types, so that each loop below is compiled for one of them.
#define PARLO_UNARY(Name, expression, slope)                                                      \
  struct Name {                                                                                   \
    static Reg value(Reg x) { return expression; }                                                \
    static Reg gradient([[maybe_unused]] Reg x, [[maybe_unused]] Reg y, Reg dy) { return slope; } \
  };

// The arguments reduce exactly up to here; farther out every lane asks libm.
constexpr float kTrigLimit = 1e6f;

template <bool kSine>
Reg trig(Reg x) {
  const SinCos near = reg_sincos(x);
  float lanes[kRegLanes], result[kRegLanes];
  reg_store(lanes, reg_abs(x));
  bool far = false;
  for (float a : lanes) far |= a > kTrigLimit;
  if (__builtin_expect(!far, 1)) return kSine ? near.sin : near.cos;
  reg_store(lanes, x);
  reg_store(result, kSine ? near.sin : near.cos);
  for (int i = 0; i < kRegLanes; ++i) {
    const double a = lanes[i];
    if (a > kTrigLimit || a < -kTrigLimit)
      result[i] = static_cast<float>(kSine ? __builtin_sin(a) : __builtin_cos(a));
  }
  return reg_load(result);
}

inline Reg one() {
  return reg_set(1);
}
inline Reg negative(Reg x) {
  return -x;
}

PARLO_UNARY(Neg, negative(x), negative(dy))
PARLO_UNARY(Exp, reg_exp(x), y* dy)
PARLO_UNARY(Log, reg_log(x), dy / x)
PARLO_UNARY(Sqrt, reg_sqrt(x), dy* reg_set(0.5f) / y)
PARLO_UNARY(Rsqrt, one() / reg_sqrt(x), reg_set(-0.5f) * y * y * y * dy)
PARLO_UNARY(Square, x* x, reg_set(2) * x * dy)
PARLO_UNARY(Abs, reg_abs(x),
            reg_if_less(reg_zero(), x, dy, reg_if_less(x, reg_zero(), negative(dy), x* dy)))
PARLO_UNARY(Sin, trig<true>(x), trig<false>(x) * dy)
PARLO_UNARY(Cos, trig<false>(x), negative(trig<true>(x)) * dy)
PARLO_UNARY(Tanh, reg_tanh(x), reg_fma(negative(y), y, one()) * dy)
PARLO_UNARY(Sigmoid, reg_sigmoid(x), y*(one() - y) * dy)
PARLO_UNARY(Relu, reg_if_less(x, reg_zero(), reg_zero(), x),
            reg_if_less(reg_zero(), x, dy, reg_if_nan(x, dy, reg_zero())))
#undef PARLO_UNARY

template <class F>
void unary(const float* x, float* y, int64_t n) {
  for_regs(n, [=](int64_t i, auto part) { part.store(y + i, F::value(part.load(x + i))); });
}

template <class F>
void unary_backward(const float* x, const float* y, const float* dy, float* dx, int64_t n) {
  for_regs(n, [=](int64_t i, auto part) {
    part.store(dx + i, F::gradient(part.load(x + i), part.load(y + i), part.load(dy + i)));
  });
}

// Activations with their slopes. x s (1 - s) is the slope of s times x.
struct None {
  static Reg value(Reg x) { return x; }
  static Reg slope(Reg) { return one(); }
};
struct GeluTanh {
  static Reg value(Reg x) { return reg_gelu_tanh(x); }
  static Reg slope(Reg x) {
    // Beyond 20 the slope is 0 or 1; x^2 would overflow to inf * 0. NaN stays.
    x = reg_max(reg_set(-20), reg_min(reg_set(20), x));
    const Reg s = reg_gelu_tanh_gate(x);
    const Reg du = reg_fma(x * x, reg_set(0.214064449f), reg_set(1.59576912f));
    return reg_fma(x * s * (one() - s), du, s);
  }
};
struct GeluErf {
  static Reg value(Reg x) { return reg_gelu_erf(x); }
  static Reg slope(Reg x) {
    const Reg half = reg_set(0.5f);
    const Reg cdf = reg_fma(half, reg_erf(x * reg_set(0.707106781f)), half);
    const Reg density = reg_exp(x * x * reg_set(-0.5f)) * reg_set(0.398942280f);
    return reg_fma(x, density, cdf);
  }
};
struct QuickGelu {
  static Reg value(Reg x) { return reg_quick_gelu(x); }
  static Reg slope(Reg x) {
    const Reg s = reg_quick_gelu_gate(x);
    return reg_fma(x * s * (one() - s), reg_set(1.702f), s);
  }
};
struct Silu {
  static Reg value(Reg x) { return reg_silu(x); }
  static Reg slope(Reg x) {
    const Reg s = reg_sigmoid(x);
    return reg_fma(x * s, one() - s, s);
  }
};

template <class F>
void activation_backward(const float* x, const float* dy, float* dx, int64_t n) {
  for_regs(n, [=](int64_t i, auto part) {
    part.store(dx + i, F::slope(part.load(x + i)) * part.load(dy + i));
  });
}

template <class F>
void glu(const float* a, const float* b, float* y, int64_t n) {
  for_regs(n, [=](int64_t i, auto part) {
    part.store(y + i, F::value(part.load(a + i)) * part.load(b + i));
  });
}

template <class F>
void glu_backward(const float* a, const float* b, const float* dy, float* da, float* db,
                  int64_t n) {
  for_regs(n, [=](int64_t i, auto part) {
    const Reg x = part.load(a + i), y = part.load(b + i), d = part.load(dy + i);
    if (da) part.store(da + i, F::slope(x) * y * d);
    if (db) part.store(db + i, F::value(x) * d);
  });
}

struct Add {
  static Reg value(Reg a, Reg b) { return a + b; }
};
struct Sub {
  static Reg value(Reg a, Reg b) { return a - b; }
};
struct Mul {
  static Reg value(Reg a, Reg b) { return a * b; }
};
struct Div {
  static Reg value(Reg a, Reg b) { return a / b; }
};
// A NaN on either side stays: min and max alone give b where either is NaN.
struct Min {
  static Reg value(Reg a, Reg b) { return reg_if_nan(a, a, reg_min(a, b)); }
};
struct Max {
  static Reg value(Reg a, Reg b) { return reg_if_nan(a, a, reg_max(a, b)); }
};

template <class F>
void binary(const float* a, int64_t a_step, const float* b, int64_t b_step, float* out, int64_t n) {
  if (a_step && b_step) {
    for_regs(n, [=](int64_t i, auto part) {
      part.store(out + i, F::value(part.load(a + i), part.load(b + i)));
    });
  } else if (a_step) {
    const Reg y = reg_set(*b);
    for_regs(n, [=](int64_t i, auto part) { part.store(out + i, F::value(part.load(a + i), y)); });
  } else {
    const Reg x = reg_set(*a);
    for_regs(n, [=](int64_t i, auto part) {
      part.store(out + i, F::value(x, b_step ? part.load(b + i) : reg_set(*b)));
    });
  }
}

void gate(const float* residual, const float* gate, const float* y, float* out, int64_t n) {
  for_regs(n, [=](int64_t i, auto part) {
    part.store(out + i, reg_fma(part.load(gate + i), part.load(y + i), part.load(residual + i)));
  });
}

void gate_backward(const float* gate, const float* y, const float* dout, float* dgate, float* dy,
                   int64_t n) {
  for_regs(n, [=](int64_t i, auto part) {
    const Reg d = part.load(dout + i);
    if (dgate) part.store(dgate + i, reg_fma(part.load(y + i), d, part.load(dgate + i)));
    if (dy) part.store(dy + i, part.load(gate + i) * d);
  });
}

void axpby(float a, const float* x, float b, float* to, int64_t n) {
  const Reg va = reg_set(a), vb = reg_set(b);
  for_regs(n, [=](int64_t i, auto part) {
    part.store(to + i, reg_fma(va, part.load(x + i), vb * part.load(to + i)));
  });
}

void scale_shift(float a, float c, const float* x, float* to, int64_t n) {
  const Reg va = reg_set(a), vc = reg_set(c);
  for_regs(n, [=](int64_t i, auto part) { part.store(to + i, reg_fma(va, part.load(x + i), vc)); });
}

}  // namespace

extern const ElementwiseIsa PARLO_ISA_NAME(elementwise);
const ElementwiseIsa PARLO_ISA_NAME(elementwise) = {
    {unary<Neg>, unary<Exp>, unary<Log>, unary<Sqrt>, unary<Rsqrt>, unary<Square>, unary<Abs>,
     unary<Sin>, unary<Cos>, unary<Tanh>, unary<Sigmoid>, unary<Relu>},
    {unary_backward<Neg>, unary_backward<Exp>, unary_backward<Log>, unary_backward<Sqrt>,
     unary_backward<Rsqrt>, unary_backward<Square>, unary_backward<Abs>, unary_backward<Sin>,
     unary_backward<Cos>, unary_backward<Tanh>, unary_backward<Sigmoid>, unary_backward<Relu>},
    {unary<None>, unary<GeluTanh>, unary<GeluErf>, unary<QuickGelu>, unary<Silu>},
    {activation_backward<None>, activation_backward<GeluTanh>, activation_backward<GeluErf>,
     activation_backward<QuickGelu>, activation_backward<Silu>},
    {glu<None>, glu<GeluTanh>, glu<GeluErf>, glu<QuickGelu>, glu<Silu>},
    {glu_backward<None>, glu_backward<GeluTanh>, glu_backward<GeluErf>, glu_backward<QuickGelu>,
     glu_backward<Silu>},
    {binary<Add>, binary<Sub>, binary<Mul>, binary<Div>, binary<Min>, binary<Max>},
    gate,
    gate_backward,
    axpby,
    scale_shift};

}  // namespace parlo::cpu
