// Which kernels a device takes: those of Hopper (wgmma, TMA) or the portable ones.
#pragma once

#include "tensor/device.h"

namespace parlo::cuda {

// Whether the device is Hopper and the library was built for it (sm_90a).
bool runs_hopper_kernels(Device device);

}  // namespace parlo::cuda
