#include "tensor/cuda/runtime.h"

#include <cstring>

#include "tests/gpu_support.h"

namespace parlo::test {

TEST_CASE("gpu: a graph runs what was captured, as often as it is started") {
  const Tensor from = random_tensor({100}, 1), a = from.to(kGpu),
               b = Tensor::zeros({100}, DType::f32, kGpu);
  const cuda::Graph graph = cuda::Graph::capture(kGpu, [&] { b.copy_from(a); });
  CHECK(same_values(b, Tensor::zeros({100})));  // captured, not run
  graph.launch();
  CHECK(same_values(b, from));
  const Tensor other = random_tensor({100}, 2);
  a.copy_from(other);
  graph.launch();
  CHECK(same_values(b, other));
}

TEST_CASE("gpu: a capture that fails leaves the stream usable") {
  CHECK(contains(message_of([] { cuda::Graph::capture(kGpu, [] { throw Error("no"); }); }), "no"));
  const Tensor x = random_tensor({10}, 3);
  CHECK(same_values(x.to(kGpu).clone(), x));
}

TEST_CASE("gpu: pinned memory and events") {
  cuda::Pinned pinned(400);
  std::memset(pinned.data(), 0, pinned.bytes());
  cuda::Event begin, end;
  const cudaStream_t stream = cuda::stream_of(kGpu);
  begin.record(stream);
  const Tensor x = random_tensor({100}, 4), g = x.to(kGpu);
  CUDA_CHECK(cudaMemcpyAsync(pinned.data(), g.raw(), 400, cudaMemcpyDeviceToHost, stream));
  end.record(stream);
  end.wait();
  CHECK(end.ms_since(begin) >= 0);
  CHECK(std::memcmp(pinned.data(), x.raw(), 400) == 0);
}

TEST_CASE("gpu: an error names the call") {
  const std::string message = message_of(
      [] { CUDA_CHECK(cudaMemcpyAsync(nullptr, nullptr, 4, cudaMemcpyKind(77), nullptr)); });
  CHECK(contains(message, "CUDA: "));
  CHECK(contains(message, "cudaMemcpyAsync"));
}

TEST_CASE("gpu: what the device is") {
  CHECK(gpu_count() >= 1);
  CHECK(why_no_gpu().empty());
  CHECK(cuda::properties(kGpu).major >= 8);
  CHECK(!gpu_name(0).empty());
}

}  // namespace parlo::test
