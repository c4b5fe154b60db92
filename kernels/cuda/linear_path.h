// Which kernel multiplies in linear on a GPU, for tests and benchmarks.
#pragma once

namespace parlo::cuda {

enum class LinearPath {
  automatic,  // the Hopper kernel where it fits and cuBLASLt lacks the epilogue
  hopper,     // wherever it fits
  library,    // nowhere
};

LinearPath linear_path();

// While alive, linear takes this path, on every thread.
class UseLinearPath {
 public:
  explicit UseLinearPath(LinearPath path);
  ~UseLinearPath();
  UseLinearPath(const UseLinearPath&) = delete;
  UseLinearPath& operator=(const UseLinearPath&) = delete;

 private:
  LinearPath before_;
};

}  // namespace parlo::cuda
