#include "tools/openmp.h"

#include <unistd.h>

#include <cstdlib>

namespace parlo {

void ensure_single_threaded_openmp(char** argv) {
  if (std::getenv("OMP_THREAD_LIMIT")) return;
  setenv("OMP_THREAD_LIMIT", "1", 1);
  execv("/proc/self/exe", argv);
  // Without /proc the program still runs, only slower.
}

}  // namespace parlo
