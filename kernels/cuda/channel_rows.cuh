// From channels [channels, positions] to rows of channels: a tile of 64 by 64 through shared
// memory, with a function of each value on the way. Convolutions read such rows.
#pragma once

#include "kernels/cuda/map.cuh"

namespace parlo::cuda {

constexpr int kRowsTile = 64, kRowsThreads = 256;

// Position p, channel c lies at x[c positions + p] and goes to rows[p row + c]; channels up to
// `padded` become zeros. 16 bytes of a row are aligned.
template <class T>
struct ChannelTile {
  const T* x;
  T* rows;
  int64_t positions, row;
  int channels, padded;
  int64_t first_position;
  int first_channel;
};

// of_channel(c) gives the function of the values of channel c. N values of x an access.
template <int N, class T, class OfChannel>
__device__ __forceinline__ void write_channel_rows(const ChannelTile<T>& t, OfChannel of_channel) {
  constexpr int kN = kPack<T>, kAcross = kRowsTile / kN;
  SMEM(T, tile, [kRowsTile][kRowsTile + 4 / sizeof(T)]);  // rows are an odd number of words apart
#pragma unroll
  for (int i = 0; i < kRowsTile * kRowsTile / (N * kRowsThreads); ++i) {
    const int item = static_cast<int>(threadIdx.x) + i * kRowsThreads;
    const int c = item / (kRowsTile / N), p = item % (kRowsTile / N) * N;
    const int channel = t.first_channel + c;
    const int64_t position = t.first_position + p;
    Pack<T, N> values{};
    if (channel < t.channels && position < t.positions) {
      const auto f = of_channel(channel);
      values = load_pack<N>(t.x + channel * t.positions + position);
#pragma unroll
      for (int k = 0; k < N; ++k) values.v[k] = from_f32<T>(f(to_f32(values.v[k])));
    }
#pragma unroll
    for (int k = 0; k < N; ++k) tile[c][p + k] = values.v[k];
  }
  __syncthreads();
  for (int item = threadIdx.x; item < kRowsTile * kAcross; item += kRowsThreads) {
    const int c = item % kAcross * kN, p = item / kAcross;
    const int64_t position = t.first_position + p;
    if (t.first_channel + c >= t.padded || position >= t.positions) continue;
    Pack<T, kN> out;
#pragma unroll
    for (int k = 0; k < kN; ++k) out.v[k] = tile[c + k][p];
    store_pack<kN>(t.rows + position * t.row + t.first_channel + c, out);
  }
}

}  // namespace parlo::cuda
