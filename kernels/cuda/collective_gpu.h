// What the two ways of GPU tensors between ranks share: through the host, and by NCCL. Ranks find
// each other, and each other's faults, over the CPU's communicator.
#pragma once

#include <memory>

#include "kernels/collective.h"

namespace parlo::cuda {

class GpuCommunicator : public Communicator {
 public:
  explicit GpuCommunicator(const CommunicatorConfig& config);

  // Tensors on the CPU go over the CPU's communicator.
  void all_reduce_sum(const Tensor& t) final;
  void broadcast(const Tensor& t, int root) final;
  void all_gather(const Tensor& mine, const Tensor& all) final;
  void barrier() final { host_->barrier(); }
  [[noreturn]] void fail(const std::string& why) final;

 protected:
  // Checked tensors on the device.
  virtual void sum(const Tensor& t) = 0;
  virtual void send(const Tensor& t, int root) = 0;
  virtual void gather(const Tensor& mine, const Tensor& all) = 0;

  Communicator& host() const { return *host_; }
  const CommunicatorConfig& config() const { return config_; }
  // Runs body(); what it throws ends every rank.
  template <class Body>
  void guarded(Body&& body) {
    try {
      body();
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }

 private:
  void check_device(const char* function, const Tensor& t) const;

  CommunicatorConfig config_;
  std::unique_ptr<Communicator> host_;
};

// Needs libnccl.so.2 and a GPU for each rank. Throws Error when there is none.
std::unique_ptr<Communicator> make_nccl_communicator(const CommunicatorConfig& config);

}  // namespace parlo::cuda
