// Attention one query row at a time, any float type; memory is one row of scores. Sums run over
// keys in ascending order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernels/cpu/attention_args.h"

namespace parlo::cpu {

template <class T>
T dot(const T* a, const T* b, int64_t n) {
  T sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

template <class T>
struct AttentionForward : AttentionForwardArgs<T> {
  using AttentionForwardArgs<T>::s, AttentionForwardArgs<T>::scale, AttentionForwardArgs<T>::q,
      AttentionForwardArgs<T>::k, AttentionForwardArgs<T>::v, AttentionForwardArgs<T>::out,
      AttentionForwardArgs<T>::lse;

  void head(int64_t b, int64_t h) const {
    std::vector<T> p(static_cast<size_t>(s.tk));
    const int64_t g = h / (s.heads / s.kv_heads);
    for (int64_t i = 0; i < s.tq; ++i) {
      const int64_t n = s.keys(b, i);
      T* o = out.row(b, i, h);
      std::fill_n(o, s.d, T(0));
      T top = -std::numeric_limits<T>::infinity(), sum = 0;
      int64_t seen = 0;
      for (int64_t j = 0; j < n; ++j) {
        if (s.hidden(b, j)) continue;
        ++seen;
        p[j] = scale * dot(q.row(b, i, h), k.row(b, j, g), s.d);
        top = p[j] > top || p[j] != p[j] ? p[j] : top;
      }
      for (int64_t j = 0; j < n; ++j) {
        if (s.hidden(b, j)) continue;
        const T e = std::exp(p[j] - top);
        sum += e;
        const T* value = v.row(b, j, g);
        for (int64_t c = 0; c < s.d; ++c) o[c] += e * value[c];
      }
      for (int64_t c = 0; c < s.d && seen > 0; ++c) o[c] /= sum;
      lse[(b * s.heads + h) * s.tq + i] =
          seen > 0 ? top + std::log(sum) : -std::numeric_limits<T>::infinity();
    }
  }
};

template <class T>
struct AttentionBackward : AttentionBackwardArgs<T> {
  using AttentionBackwardArgs<T>::s, AttentionBackwardArgs<T>::scale, AttentionBackwardArgs<T>::q,
      AttentionBackwardArgs<T>::k, AttentionBackwardArgs<T>::v, AttentionBackwardArgs<T>::out,
      AttentionBackwardArgs<T>::dout, AttentionBackwardArgs<T>::dq, AttentionBackwardArgs<T>::dk,
      AttentionBackwardArgs<T>::dv, AttentionBackwardArgs<T>::lse;

  // All that depends on key head g: its dk and dv, and dq of the query heads it serves.
  void key_head(int64_t b, int64_t g) const {
    for (int64_t j = 0; j < s.tk; ++j) {
      std::fill_n(dk.row(b, j, g), s.d, T(0));
      std::fill_n(dv.row(b, j, g), s.d, T(0));
    }
    const int64_t group = s.heads / s.kv_heads;
    for (int64_t h = g * group; h < (g + 1) * group; ++h)
      for (int64_t i = 0; i < s.tq; ++i) query(b, g, h, i);
  }

  void query(int64_t b, int64_t g, int64_t h, int64_t i) const {
    const T *qi = q.row(b, i, h), *doi = dout.row(b, i, h);
    const T delta = dot(out.row(b, i, h), doi, s.d);
    T* dqi = dq.row(b, i, h);
    std::fill_n(dqi, s.d, T(0));
    const int64_t n = s.keys(b, i);
    for (int64_t j = 0; j < n; ++j) {
      if (s.hidden(b, j)) continue;
      const T *kj = k.row(b, j, g), *vj = v.row(b, j, g);
      T *dkj = dk.row(b, j, g), *dvj = dv.row(b, j, g);
      const T p = std::exp(scale * dot(qi, kj, s.d) - lse[(b * s.heads + h) * s.tq + i]);
      const T ds = p * (dot(doi, vj, s.d) - delta) * scale;
      for (int64_t c = 0; c < s.d; ++c) {
        dvj[c] += p * doi[c];
        dqi[c] += ds * kj[c];
        dkj[c] += ds * qi[c];
      }
    }
  }
};

}  // namespace parlo::cpu
