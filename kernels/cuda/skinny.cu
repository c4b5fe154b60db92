// skinny_linear (kernels/skinny.h) on a GPU: checks, the down-projection, and which kernel.
#include "kernels/skinny.h"

#include "kernels/cuda/skinny.cuh"
#include "kernels/skinny_checks.h"

namespace parlo::cuda {
namespace {

template <class T, class W>
void run(const SkinnyOperands<T, W>& f, Device device) {
  if (f.rows == 0 || f.n == 0) return;
  if constexpr (std::is_same_v<T, bf16>) {
    if (f.k % 8 == 0 && is_aligned(f.x) && is_aligned(f.w)) return skinny_by_mma(f, device);
  }
  skinny_by_fma(f, device);
}

// T of x, W of w.
template <class T, class W>
void run(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  const auto plain = [&x]<class V>(const Tensor& weight, const Tensor& out, V) {
    SkinnyOperands<T, V> f{};
    f.rows = x.dim(0), f.n = weight.dim(0), f.k = x.dim(1);
    f.x = pointer<const T>(x), f.w = pointer<const V>(weight), f.y = pointer<T>(out);
    f.activation = Activation::none;
    return f;
  };
  SkinnyOperands<T, W> f = plain(w, y, W{});
  const Tensor bias = args.bias ? args.bias.to(x.dtype()).contiguous() : Tensor();
  f.bias = pointer<const T>(bias), f.residual = pointer<const T>(args.residual);
  f.activation = args.activation;
  Tensor a, b, down;  // as the kernels want them, until the launch
  if (args.low_rank) {
    const LowRank& low = *args.low_rank;
    a = low.a.to(x.dtype()).contiguous(), b = low.b.to(x.dtype()).contiguous();
    down = low.down ? low.down : Tensor::empty({x.dim(0), a.dim(0)}, x.dtype(), x.device());
    run(plain(a, down, T{}), x.device());
    f.down = pointer<const T>(down), f.up = pointer<const T>(b), f.rank = a.dim(0);
    f.scale = static_cast<float>(low.scale);
  }
  run(f, x.device());
}

}  // namespace

void skinny_linear(const Tensor& x, const Tensor& w, const Tensor& y, const LinearArgs& args) {
  const char* name = "skinny_linear";
  check_skinny(x, w, y, args);
  check_same_device(name, x, w, y, args.bias, args.residual);
  if (args.low_rank) {
    check_same_device(name, x, args.low_rank->a, args.low_rank->b, args.low_rank->down);
  }
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    w.dtype() == x.dtype() ? run<T, T>(x, w, y, args) : run<float, bf16>(x, w, y, args);
  });
}

}  // namespace parlo::cuda
