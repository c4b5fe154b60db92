// How a strided copy walks: shape and strides of both sides with as few axes as possible.
#pragma once

#include "tensor/shape.h"

namespace parlo {

struct CopyWalk {
  Shape shape, from, to;  // strides in elements
};

// Drops axes of size 1 and merges neighbours that are contiguous on both sides; at least one axis
// is left.
CopyWalk simplify_walk(const Shape& shape, const Shape& from, const Shape& to);

}  // namespace parlo
