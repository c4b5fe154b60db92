// The blocks of an Arena, which allocate_memory and release_memory look into.
#pragma once

#include <map>
#include <memory>
#include <vector>

#include "tensor/device.h"

namespace parlo {

struct ArenaBlocks {
  Device device;
  std::map<size_t, std::vector<void*>> free;  // under the lock of the device's ledger
  bool closed = false;                        // its Arena is gone
  bool recording = false;
  std::vector<void*> late;  // other memory that was released during a recording
};

namespace cuda {

// Where this thread's tensors live; null: in memory of their own.
std::shared_ptr<ArenaBlocks>& current_arena();
// Gives blocks back to the driver's pool: all that are free of a closed arena, and the late ones.
void drain(ArenaBlocks& blocks);

}  // namespace cuda
}  // namespace parlo
