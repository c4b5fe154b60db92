// DISPATCH(device, f(args)) calls cpu::f or cuda::f: the only #if on CUDA in the tree.
#pragma once

#include "tensor/device.h"
#include "tensor/error.h"

#define DISPATCH(device, call)                                                \
  do {                                                                        \
    const ::parlo::Device dispatch_device = (device);                         \
    CHECK(dispatch_device.is_cpu(), #call, ": this build has no ",            \
          ::parlo::to_string(dispatch_device), " backend; use --device cpu"); \
    ::parlo::cpu::call;                                                       \
  } while (0)
