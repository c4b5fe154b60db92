// DISPATCH(device, f(args)) calls cpu::f or cuda::f and has its value: the only place that knows
// which backends this build has. On the meta device nothing is called, and the value is its type's
// default.
#pragma once

#include "tensor/device.h"
#include "tensor/error.h"
#include "tensor/trace.h"

#ifdef PARLO_GPU

// The range lives until the call has returned.
#define DISPATCH(device, call)                                                             \
  (static_cast<void>(::parlo::TraceRange(#call)), (device).is_meta()                       \
                                                      ? decltype(::parlo::cpu::call)()     \
                                                  : (device).is_cpu() ? ::parlo::cpu::call \
                                                                      : ::parlo::cuda::call)

#else

namespace parlo {

inline void require_backend(Device device, const char* call) {
  CHECK(device.is_cpu(), call, ": this build has no ", to_string(device),
        " backend; use --device cpu");
}

}  // namespace parlo

#define DISPATCH(device, call)                         \
  ((device).is_meta() ? decltype(::parlo::cpu::call)() \
                      : (::parlo::require_backend((device), #call), ::parlo::cpu::call))

#endif
