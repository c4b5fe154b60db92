// What group norm's forward and backward share. A group is contiguous and longer than a block
// holds, so it is split into spans that stay in registers; what they sum is joined in order. The
// split depends on the size of a group alone. Groups go through the kernels that read them in
// portions of a quarter of the L2, so that the second reading comes from there.
#pragma once

#include "kernels/cuda/math.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/norm_checks.h"

namespace parlo::cuda {

constexpr int kGroupTeam = 256;

template <class T>
struct GroupArgs {
  const T *x, *dy;
  T* y;                // or dx
  float *mean, *rstd;  // [B, groups]
  Parameter<T> weight, bias;
  float *first, *second;          // partial sums
  int64_t from, until;            // groups of this launch
  int64_t groups, channels;       // of a sample
  unsigned group_channels;        // channels of a group
  unsigned positions, size;       // elements of a channel, of a group
  unsigned channel_spans, spans;  // spans of a channel, of a group
  float eps;
  int silu;  // the result goes through it
};

// The span of a row (group or channel, counted over the batch) that this team of threads has.
template <class S>
struct GroupSpan {
  int64_t row;
  unsigned index, start;
  int columns;  // 0 for a team without a span
  __device__ GroupSpan(int64_t from, int64_t until, unsigned spans, unsigned size) {
    const int64_t item = static_cast<int64_t>(blockIdx.x) * S::kTeams + threadIdx.x / S::kTeam;
    row = from + item / spans;
    index = static_cast<unsigned>(item % spans);
    start = index * S::kSpan;
    columns = row < until ? length(index, size) : 0;
  }
  static __device__ int length(unsigned index, unsigned size) {
    const unsigned left = size - index * S::kSpan;
    return static_cast<int>(left < S::kSpan ? left : S::kSpan);
  }
};

template <class T>
GroupArgs<T> group_args(const char* name, const GroupShape& s, const Tensor& x, const NormParams& p,
                        const Tensor& mean, const Tensor& rstd) {
  CHECK(s.group_size() < int64_t{1} << 31, name, ": a group of ", s.group_size(),
        " elements is longer than a GPU kernel counts; use more groups");
  GroupArgs<T> a{};
  a.x = pointer<const T>(x);
  a.mean = pointer<float>(mean), a.rstd = pointer<float>(rstd);
  a.weight = Parameter<T>(p.weight), a.bias = Parameter<T>(p.bias);
  a.groups = s.groups, a.channels = s.channels;
  a.group_channels = static_cast<unsigned>(s.group_channels());
  a.positions = static_cast<unsigned>(s.positions);
  a.size = static_cast<unsigned>(s.group_size());
  a.eps = static_cast<float>(p.eps);
  a.silu = p.activation == Activation::silu;
  return a;
}

// Whether 16 bytes of these never cross the end of a channel.
template <class T>
bool is_packed(const GroupArgs<T>& a) {
  return a.positions % kPack<T> == 0 && is_aligned(a.x) && is_aligned(a.dy) && is_aligned(a.y);
}

// fn(args) for groups in portions of about a quarter of the L2.
template <class T, class Fn>
void for_portions(GroupArgs<T> a, const GroupShape& s, Device device, Fn&& fn) {
  const int64_t bytes = static_cast<int64_t>(properties(device).l2_bytes / 4);
  const int64_t step = std::max<int64_t>(1, bytes / (s.group_size() * int64_t{sizeof(T)}));
  for (int64_t k = 0; k < s.batch * s.groups; k += step) {
    a.from = k, a.until = std::min(k + step, s.batch * s.groups);
    fn(a);
  }
}

template <class S, class T>
Launch grid_of(const char* name, const GroupArgs<T>& a, int64_t items, Device device) {
  const int64_t blocks = ceil_div((a.until - a.from) * items, S::kTeams);
  return {name, static_cast<unsigned>(blocks), S::kThreads, device};
}

}  // namespace parlo::cuda
