// Resizing on a GPU, all axes at once: a result is the sum over a box of elements, whose ends and
// weights come from each axis. Gradients are the same with the transposed maps, a gather.
// Floor: x and y once. A thread makes 16 bytes of a row; for nearest it computes the places, which
// for the others lie in tables.
#include "kernels/resize.h"

#include "kernels/cuda/map.cuh"
#include "kernels/resize_table.h"

namespace parlo::cuda {
namespace {

constexpr int kThreads = 256;

struct Box {
  int first, count;
};

// The map of one axis; `turned` that of the gradient, from results to elements.
struct NearestAxis {
  int in, out, turned;
  __device__ __forceinline__ Box box(int i) const {
    if (!turned) return {static_cast<int>(int64_t{i} * in / out), 1};
    // Here `in` counts the results: those whose place is i.
    const auto from = [&](int j) { return static_cast<int>((int64_t{j} * in + out - 1) / out); };
    return {from(i), from(i + 1) - from(i)};
  }
  __device__ __forceinline__ float weight(int, int) const { return 1; }
};

struct TableAxis {
  int in, out, taps;
  const Box* boxes;
  const float* weights;
  __device__ __forceinline__ Box box(int i) const { return boxes[i]; }
  __device__ __forceinline__ float weight(int i, int k) const { return weights[i * taps + k]; }
};

template <class Axis>
struct Axes {
  Axis d, h, w;
};

// Result (d, h, v) of a plane of x.
template <class Axis, class T>
__device__ __forceinline__ float box_sum(const Axes<Axis>& a, const T* plane, int d, int h, int v) {
  const Box bd = a.d.box(d), bh = a.h.box(h), bw = a.w.box(v);
  float sum = 0;
  for (int i = 0; i < bd.count; ++i) {
    for (int j = 0; j < bh.count; ++j) {
      const T* line = plane + (int64_t{bd.first + i} * a.h.in + bh.first + j) * a.w.in + bw.first;
      float row = 0;
      for (int k = 0; k < bw.count; ++k) row = fmaf(a.w.weight(v, k), to_f32(line[k]), row);
      sum = fmaf(a.d.weight(d, i) * a.h.weight(h, j), row, sum);
    }
  }
  return sum;
}

template <int N, class Axis, class T>
__global__ void __launch_bounds__(kThreads)
    resize_kernel(Axes<Axis> a, int64_t packs, const T* x, T* y) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  const int across = a.w.out / N;
  const int64_t volume = int64_t{a.d.in} * a.h.in * a.w.in;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < packs;
       i += step) {
    const int64_t line = i / across, frame = line / a.h.out;
    const int v = static_cast<int>(i % across) * N, h = static_cast<int>(line % a.h.out);
    const T* plane = x + frame / a.d.out * volume;
    Pack<T, N> out;
#pragma unroll
    for (int k = 0; k < N; ++k) {
      out.v[k] = from_f32<T>(box_sum(a, plane, static_cast<int>(frame % a.d.out), h, v + k));
    }
    store_pack<N>(y + i * N, out);
  }
}

template <class Axis>
void run(const char* name, const Axes<Axis>& axes, const Tensor& x, const Tensor& y) {
  visit_dtype_gpu(x.dtype(), name, [&](auto type) {
    using T = decltype(type);
    const auto go = [&]<int N>(std::integral_constant<int, N>) {
      const int64_t packs = y.numel() / N;
      launch({name, blocks_for(packs, kThreads), kThreads, y.device()}, resize_kernel<N, Axis, T>,
             axes, packs, pointer<const T>(x), pointer<T>(y));
    };
    if (axes.w.out % kPack<T> == 0 && is_aligned(y.raw())) {
      go(std::integral_constant<int, kPack<T>>{});
    } else {
      go(std::integral_constant<int, 1>{});
    }
  });
}

// Size of an axis counted from depth (0) to width (2); missing ones are 1.
int size_of(const Tensor& t, int axis) {
  const int i = t.rank() - 3 + axis;
  const int64_t size = i < 2 ? 1 : t.dim(i);
  CHECK(size < int64_t{1} << 31, "resize: an axis of ", size, " is longer than a GPU counts");
  return static_cast<int>(size);
}

struct DeviceTable {
  Tensor boxes, weights;
  TableAxis axis;
};

DeviceTable upload(const ResizeTable& table, int in, Device device) {
  std::vector<int32_t> boxes;
  for (size_t i = 0; i < table.first.size(); ++i) {
    boxes.push_back(table.first[i]), boxes.push_back(table.count[i]);
  }
  DeviceTable t;
  t.boxes = Tensor::from(boxes, {table.size(), 2}).to(device);
  t.weights = Tensor::from(table.weights, {table.size(), table.taps}).to(DType::f32).to(device);
  t.axis = {in, static_cast<int>(table.size()), static_cast<int>(table.taps),
            static_cast<const Box*>(t.boxes.raw()), pointer<const float>(t.weights)};
  return t;
}

// From x to y; `turned`: the gradient of a resize from y's sizes to x's.
void resize_axes(const char* name, const Tensor& x, const Tensor& y, const ResizeArgs& args,
                 bool turned) {
  check_resize(name, x, y, args);
  check_same_device(name, x, y);
  visit_dtype_gpu(x.dtype(), name, [](auto) {});
  if (y.numel() == 0) return;
  if (args.mode == Interpolation::nearest) {
    const auto axis = [&](int i) { return NearestAxis{size_of(x, i), size_of(y, i), turned}; };
    return run(name, Axes<NearestAxis>{axis(0), axis(1), axis(2)}, x, y);
  }
  const auto table = [&](int i) {
    const int in = size_of(x, i), out = size_of(y, i);
    return upload(
        turned ? transpose(resize_table(out, in, args), out) : resize_table(in, out, args), in,
        x.device());
  };
  const DeviceTable d = table(0), h = table(1), w = table(2);
  run(name, Axes<TableAxis>{d.axis, h.axis, w.axis}, x, y);
}

}  // namespace

void resize(const Tensor& x, const Tensor& y, const ResizeArgs& args) {
  resize_axes("resize", x, y, args, false);
}

void resize_backward(const Tensor& dy, const Tensor& dx, const ResizeArgs& args) {
  resize_axes("resize_backward", dy, dx, args, true);
}

}  // namespace parlo::cuda
