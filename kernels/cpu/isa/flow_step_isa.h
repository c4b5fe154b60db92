// Arguments of the flow step over one block of one sample: plain pointers.
#pragma once

#include <cstdint>

namespace parlo::cpu {

// mean = cx x + cv v
template <class T>
struct FlowBlock {
  T cx, cv;
  const T* x;
  const T* v;
  int64_t n;
};

}  // namespace parlo::cpu
