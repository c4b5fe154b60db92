#include "tensor/trace.h"

#include <nvtx3/nvToolsExt.h>

namespace parlo {

TraceRange::TraceRange(const char* name) {
  nvtxRangePushA(name);
}

TraceRange::~TraceRange() {
  nvtxRangePop();
}

}  // namespace parlo
