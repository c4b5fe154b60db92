// One libFuzzer program a target: PARLO_FUZZ_TARGET is its name.
#include <cstddef>
#include <cstdint>

#include "tests/fuzz/targets.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  parlo::fuzz::run(parlo::fuzz::PARLO_FUZZ_TARGET, {reinterpret_cast<const char*>(data), size});
  return 0;
}
