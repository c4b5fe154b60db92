// Collective operations on GPU tensors: through the host between processes, alone, and by NCCL with
// one rank where there is a GPU and the library.
#include <cstdlib>

#include "kernels/cuda/collective_gpu.h"
#include "kernels/cuda/find_library.h"
#include "tests/kernels/collective_support.h"
#include "tests/kernels/gpu_kernel_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

// Children are forks of this process and cannot use the threads of its pool.
const bool kOneThread = (set_num_threads(1), true);

Tensor brought(const Shape& shape, int rank, DType dtype) {
  return random_tensor(shape, static_cast<uint32_t>(11 + rank), DType::f64, 100).to(dtype);
}

const std::vector<Shape> kShapes = {{0}, {1}, {33, 17}, {1025}};

// Every operation, against the communicator's own work on the CPU.
std::string check_all(Communicator& c) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64}) {
    for (const Shape& shape : kShapes) {
      const Tensor cpu = brought(shape, c.rank(), dtype), gpu = on_gpu(cpu);
      Shape together{c.size()};
      for (int i = 0; i < shape.rank(); ++i) together.push_back(shape[i]);
      const Tensor all = Tensor::zeros(together, dtype), gpu_all = on_gpu(all);
      c.all_gather(cpu, all);
      c.all_gather(gpu, gpu_all);
      if (!same_gpu_bits(gpu_all, all)) return concat("all_gather of ", shape, dtype_name(dtype));
      c.all_reduce_sum(cpu);
      c.all_reduce_sum(gpu);
      if (!same_gpu_bits(gpu, cpu)) return concat("sum of ", shape, " ", dtype_name(dtype));
      const Tensor sent = on_gpu(brought(shape, c.rank(), dtype));
      const int root = c.size() - 1;
      c.broadcast(sent, root);
      if (!same_gpu_bits(sent, brought(shape, root, dtype))) return concat("broadcast of ", shape);
    }
  }
  c.barrier();
  return "good";
}

CommunicatorConfig gpu_ranks(int size) {
  CommunicatorConfig config = ranks(size);
  config.device = kGpu;
  config.through_host = true;
  return config;
}

}  // namespace

// First: a process that has used a GPU cannot fork.
TEST_CASE("gpu: ranks through the host have the CPU's bits") {
  for (const int size : {2, 3}) {
    for (const std::string& text : run_ranks(gpu_ranks(size), check_all)) CHECK(text == "good");
  }
}

TEST_CASE("gpu: calls that differ end every rank") {
  const auto texts = run_ranks(gpu_ranks(2), [](Communicator& c) {
    c.all_reduce_sum(Tensor::zeros({4 + c.rank()}, DType::f32, kGpu));
    return "not noticed";
  });
  CHECK(all_are(texts, texts[0]));
  CHECK(contains(texts[0], "rank 1 is in all_reduce_sum of 20 bytes f32"));
  // A bad argument does not reach the host's communicator by itself.
  const auto bad = run_ranks(gpu_ranks(2), [](Communicator& c) {
    const Tensor t = Tensor::zeros({4, 4}, DType::f32, kGpu);
    c.all_reduce_sum(c.rank() == 1 ? t.transpose(0, 1) : t);
    return "not noticed";
  });
  CHECK(all_are(bad,
                "error: all_reduce_sum: t of shape (4, 4) is not contiguous; call contiguous() "
                "first"));
}

TEST_CASE("gpu: one rank needs nobody") {
  CommunicatorConfig config;
  config.device = kGpu;
  CHECK(check_all(*make_communicator(config)) == "good");
}

TEST_CASE("gpu: NCCL that is not there is named") {
  const char* before = std::getenv("PARLO_NCCL");
  const std::string kept = before ? before : "";
  ::setenv("PARLO_NCCL", "/nowhere/libnccl.so", 1);
  const std::string message = message_of([] { cuda::open_nccl(); });
  CHECK(contains(message, "PARLO_NCCL names a library that does not open"));
  CHECK(contains(message, "/nowhere/libnccl.so"));
  if (before) {
    ::setenv("PARLO_NCCL", kept.c_str(), 1);
  } else {
    ::unsetenv("PARLO_NCCL");
  }
}

#ifndef PARLO_SIMT
TEST_CASE("gpu: NCCL with one rank") {
  if (const std::string missing = message_of([] { cuda::open_nccl(); }); !missing.empty()) {
    MESSAGE("skipped: ", missing);
    return;
  }
  CommunicatorConfig config;
  config.device = kGpu;
  const auto c = cuda::make_nccl_communicator(config);
  CHECK(check_all(*c) == "good");
}
#endif
