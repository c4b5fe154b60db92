#include "kernels/collective_checks.h"
#include "kernels/cuda/collective_gpu.h"
#include "tensor/device_memory.h"

namespace parlo::cuda {
namespace {

CommunicatorConfig on_host(CommunicatorConfig config) {
  config.device = Device{};
  return config;
}

void copy(const Tensor& to, const Tensor& from) {
  copy_memory(to.raw(), to.device(), from.raw(), from.device(), from.nbytes());
}

// Through the host: the order of sums and the bits of the CPU.
class StagedCommunicator final : public GpuCommunicator {
 public:
  using GpuCommunicator::GpuCommunicator;

 private:
  void sum(const Tensor& t) override {
    if (size() == 1) return;
    const Tensor staged = t.to(Device{});
    host().all_reduce_sum(staged);
    copy(t, staged);
  }

  void send(const Tensor& t, int root) override {
    if (size() == 1) return;
    const Tensor staged = root == rank() ? t.to(Device{}) : Tensor::empty(t.shape(), t.dtype());
    host().broadcast(staged, root);
    if (root != rank()) copy(t, staged);
  }

  void gather(const Tensor& mine, const Tensor& all) override {
    if (size() == 1) return copy(all, mine);
    const Tensor staged = Tensor::empty(all.shape(), all.dtype());
    host().all_gather(mine.to(Device{}), staged);
    copy(all, staged);
  }
};

}  // namespace

GpuCommunicator::GpuCommunicator(const CommunicatorConfig& config)
    : Communicator(config.rank, config.size),
      config_(config),
      host_(cpu::make_communicator(on_host(config))) {}

void GpuCommunicator::fail(const std::string& why) {
  host_->fail(why);
  throw Error(why);  // g++ 12 does not see that a virtual function never returns
}

void GpuCommunicator::check_device(const char* function, const Tensor& t) const {
  CHECK(t.device() == config_.device, function, ": the tensor is on ", to_string(t.device()),
        ", the communicator on ", to_string(config_.device));
}

void GpuCommunicator::all_reduce_sum(const Tensor& t) {
  if (t.device().is_cpu()) return host_->all_reduce_sum(t);
  guarded([&] {
    check_all_reduce(t);
    check_device("all_reduce_sum", t);
    sum(t);
  });
}

void GpuCommunicator::broadcast(const Tensor& t, int root) {
  if (t.device().is_cpu()) return host_->broadcast(t, root);
  guarded([&] {
    check_broadcast(t, root, rank(), size());
    check_device("broadcast", t);
    send(t, root);
  });
}

void GpuCommunicator::all_gather(const Tensor& mine, const Tensor& all) {
  if (mine.device().is_cpu()) return host_->all_gather(mine, all);
  guarded([&] {
    check_all_gather(mine, all, size());
    check_device("all_gather", mine);
    gather(mine, all);
  });
}

// One rank needs no NCCL, and the simulated GPU has none.
std::unique_ptr<Communicator> make_communicator(const CommunicatorConfig& config) {
  bool staged = config.size == 1 || config.through_host;
#ifdef PARLO_SIMT
  staged = true;
#endif
  if (staged) return std::make_unique<StagedCommunicator>(config);
  return make_nccl_communicator(config);
}

#ifdef PARLO_SIMT
std::unique_ptr<Communicator> make_nccl_communicator(const CommunicatorConfig&) {
  throw Error("NCCL: not on a simulated GPU");
}
#endif

}  // namespace parlo::cuda
