// Group norm over x [B, C, S]: a group is C / groups channels, contiguous in memory.
// Backward: with per-channel sums s1 = sum dy and s2 = sum dy xhat over S, the group's means of
// g = dy weight and g xhat follow from s1 weight and s2 weight; dweight and dbias sum s2 and s1
// over the batch in order.
#include <cmath>
#include <vector>

#include "kernels/cpu/checks.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/norm_checks.h"
#include "tensor/parallel.h"

namespace parlo::cpu {
namespace {

template <class T>
void normalise_group(const GroupShape& s, const T* x, const T* weight, const T* bias, double mean,
                     double rstd, T* y) {
  const T m = static_cast<T>(mean);
  for (int64_t c = 0; c < s.group_channels(); ++c) {
    const double gain = rstd * (weight ? weight[c] : 1.0);
    const T a = static_cast<T>(gain);
    const T b = bias ? bias[c] : T{0};
    for (int64_t i = 0; i < s.positions; ++i, ++x, ++y) *y = (*x - m) * a + b;
  }
}

// Sums in eight interleaved lanes: the compiler vectorises them, and the order is fixed.
template <class T, class Value>
double lane_sum(int64_t n, Value&& value) {
  double lanes[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int k = 0; k < 8; ++k) lanes[k] += value(i + k);
  for (int k = 0; i < n; ++i, ++k) lanes[k] += value(i);
  return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
         ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

}  // namespace

void group_norm(const Tensor& x, int64_t groups, const NormParams& p, const Tensor& y,
                const Tensor& mean, const Tensor& rstd) {
  const GroupShape s = check_group_norm("group_norm", x, groups, p);
  check_output("group_norm", "y", y, x.dtype(), x.numel());
  check_output("group_norm", "mean", mean, x.dtype(), s.batch * groups);
  check_output("group_norm", "rstd", rstd, x.dtype(), s.batch * groups);
  if (x.numel() == 0) return;
  visit_float(x.dtype(), "group_norm", [&](auto type) {
    using T = decltype(type);
    const T *weight = data_or_null<T>(p.weight), *bias = data_or_null<T>(p.bias);
    const int64_t n = s.group_size();
    parallel_for(s.batch * groups, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const T* from = x.data<T>() + k * n;
        const double m = lane_sum<T>(n, [&](int64_t i) { return double{from[i]}; }) / n;
        const double variance =
            lane_sum<T>(n, [&](int64_t i) { return (from[i] - m) * (from[i] - m); }) / n;
        const double r = 1 / std::sqrt(variance + p.eps);
        mean.data<T>()[k] = static_cast<T>(m);
        rstd.data<T>()[k] = static_cast<T>(r);
        const int64_t first = k % groups * s.group_channels();
        normalise_group(s, from, weight ? weight + first : nullptr, bias ? bias + first : nullptr,
                        m, r, y.data<T>() + k * n);
      }
    });
  });
  if (p.activation != Activation::none) activation(p.activation, y, y);
}

namespace {

// The gradient of the activation's argument, which is computed again.
Tensor before_activation(const GroupShape& s, const Tensor& x, const NormParams& p,
                         const Tensor& mean, const Tensor& rstd, const Tensor& dy) {
  const Tensor z = Tensor::empty_like(x);
  visit_float(x.dtype(), "group_norm_backward", [&](auto type) {
    using T = decltype(type);
    const T *weight = data_or_null<T>(p.weight), *bias = data_or_null<T>(p.bias);
    const int64_t n = s.group_size();
    parallel_for(n ? s.batch * s.groups : 0, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = k % s.groups * s.group_channels();
        normalise_group(s, x.data<T>() + k * n, weight ? weight + first : nullptr,
                        bias ? bias + first : nullptr, double{mean.data<T>()[k]},
                        double{rstd.data<T>()[k]}, z.data<T>() + k * n);
      }
    });
  });
  activation_backward(p.activation, z, dy, z);
  return z;
}

// s1[c] = sum dy, s2[c] = sum dy xhat of each channel; dx where wanted.
template <class T>
void group_backward(const GroupShape& s, const T* x, const T* weight, double mean, double rstd,
                    const T* dy, double* s1, double* s2, T* dx) {
  double g_sum = 0, g_xhat_sum = 0;
  for (int64_t c = 0; c < s.group_channels(); ++c) {
    const T *xc = x + c * s.positions, *dyc = dy + c * s.positions;
    s1[c] = lane_sum<T>(s.positions, [&](int64_t i) { return double{dyc[i]}; });
    s2[c] = lane_sum<T>(s.positions, [&](int64_t i) { return dyc[i] * (xc[i] - mean) * rstd; });
    g_sum += s1[c] * (weight ? weight[c] : 1.0);
    g_xhat_sum += s2[c] * (weight ? weight[c] : 1.0);
  }
  if (!dx) return;
  // dx = rstd (g - g_mean - (x - mean) rstd g_xhat_mean) = dy a + (x - m) b + d
  const double n = static_cast<double>(s.group_size());
  const T m = static_cast<T>(mean);
  const T b = static_cast<T>(-rstd * rstd * (g_xhat_sum / n));
  const T d = static_cast<T>(-rstd * (g_sum / n));
  for (int64_t c = 0; c < s.group_channels(); ++c) {
    const T a = static_cast<T>(rstd * (weight ? weight[c] : 1.0));
    for (int64_t i = c * s.positions; i < (c + 1) * s.positions; ++i)
      dx[i] = dy[i] * a + ((x[i] - m) * b + d);
  }
}

}  // namespace

void group_norm_backward(const Tensor& x, int64_t groups, const NormParams& p, const Tensor& mean,
                         const Tensor& rstd, const Tensor& dy_after, const NormGrads& grads) {
  const char* name = "group_norm_backward";
  const GroupShape s = check_group_norm_backward(name, x, groups, p, mean, rstd, dy_after, grads);
  const Tensor dy = p.activation == Activation::none
                        ? dy_after
                        : before_activation(s, x, p, mean, rstd, dy_after);
  visit_float(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const T* weight = data_or_null<T>(p.weight);
    const int64_t n = s.group_size();
    std::vector<double> s1(static_cast<size_t>(s.batch * s.channels)), s2(s1.size());
    parallel_for(n ? s.batch * groups : 0, row_grain(n), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        const int64_t first = k % groups * s.group_channels();
        const int64_t row = k * s.group_channels();
        group_backward(s, x.data<T>() + k * n, weight ? weight + first : nullptr, mean.data<T>()[k],
                       rstd.data<T>()[k], dy.data<T>() + k * n, &s1[row], &s2[row],
                       grads.dx ? grads.dx.data<T>() + k * n : nullptr);
      }
    });
    for (int64_t c = 0; c < s.channels; ++c) {
      double dweight = 0, dbias = 0;
      for (int64_t b = 0; b < s.batch; ++b) {
        dweight += s2[b * s.channels + c];
        dbias += s1[b * s.channels + c];
      }
      if (grads.dweight) grads.dweight.data<T>()[c] = static_cast<T>(dweight);
      if (grads.dbias) grads.dbias.data<T>()[c] = static_cast<T>(dbias);
    }
  });
}

}  // namespace parlo::cpu
