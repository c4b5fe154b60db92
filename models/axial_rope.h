// Rotary positions with several axes, as FLUX and HunyuanVideo have them: the head is cut into one
// part an axis, and each part is rotated by that coordinate.
#pragma once

#include <span>

#include "models/mmdit.h"

namespace parlo {

// ids [T, axes] -> angles [T, sum(dims) / 2] in f64: those of axis a are
// ids[:, a] * theta^(-2k / dims[a]), k < dims[a] / 2. dims are even.
Var axial_angles(const Var& ids, std::span<const int64_t> dims, double theta);

// Angles [T, D/2] as the kernels take them. Where angles want a gradient it flows through them.
Rotation rotation_by(const Var& angles, Device device);

// y [B, T, H, D] itself, queries or keys that were rotated by these angles. Passes what their
// gradient says on to the angles: d(a, b) = (-b, a) d(angle) of each pair. Only f32 and f64.
Var rotated_by(const Var& y, const Var& angles);

}  // namespace parlo
