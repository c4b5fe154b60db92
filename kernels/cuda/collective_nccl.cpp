// Tensors between GPUs by NCCL, on the compute stream. Sums are taken in NCCL's own order: fixed
// for one set of machines, ranks and sizes, the same bits on every rank, but not in the order of
// the ranks (CommunicatorConfig::through_host is).
//
// An operation waits for the device, compares the call over the CPU's communicator (a dead or
// differing rank is found there), then waits for NCCL with a deadline: once an optimizer step, some
// 0.2 ms each, and no operation is left hanging on the stream.
#ifndef PARLO_SIMT
#include "kernels/cuda/collective_gpu.h"

#if __has_include(<nccl.h>)
#include <chrono>
#include <cstring>
#include <thread>

#include "kernels/cuda/nccl_table.h"
#include "tensor/cuda/runtime.h"
#include "tensor/device_memory.h"

namespace parlo::cuda {
namespace {

using Clock = std::chrono::steady_clock;

ncclDataType_t nccl_type(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return ncclFloat32;
    case DType::f64:
      return ncclFloat64;
    case DType::i64:
      return ncclInt64;
    default:
      throw Error(concat("all_reduce_sum: no sums of ", dtype_name(dtype), " by NCCL"));
  }
}

// The communicator does not block: what takes long goes on after the call.
bool started(ncclResult_t result) {
  return result == ncclSuccess || result == ncclInProgress;
}

class NcclCommunicator final : public GpuCommunicator {
 public:
  explicit NcclCommunicator(const CommunicatorConfig& config) : GpuCommunicator(config) {
    // A throw from here runs no destructor of this class.
    try {
      guarded([&] { connect(); });
    } catch (...) {
      if (comm_ != nullptr) nccl().abort(comm_);
      throw;
    }
  }

  ~NcclCommunicator() override {
    if (comm_ == nullptr) return;
    stream_of(config().device);
    if (!broken_ && started(nccl().finalize(comm_)) && settled(kGoodbye)) {
      nccl().destroy(comm_);
    } else {
      nccl().abort(comm_);  // does not wait for ranks that are gone
    }
  }

 private:
  static constexpr std::chrono::seconds kGoodbye{5};

  void connect() {
    // A rank without the library or its GPU ends the others before they wait in NCCL.
    nccl();
    stream_of(config().device);
    const Tensor id_bytes = Tensor::empty({NCCL_UNIQUE_ID_BYTES}, DType::u8);
    ncclUniqueId id;
    if (rank() == 0) {
      check(nccl().get_unique_id(&id), "ncclGetUniqueId");
      std::memcpy(id_bytes.raw(), &id, sizeof id);
    }
    host().broadcast(id_bytes, 0);
    std::memcpy(&id, id_bytes.raw(), sizeof id);
    ncclConfig_t options = NCCL_CONFIG_INITIALIZER;
    options.blocking = 0;
    check(nccl().init(&comm_, size(), id, rank(), &options), "ncclCommInitRankConfig");
    wait("rendezvous", [] { return true; });
  }

  void sum(const Tensor& t) override {
    // NCCL would round every partial sum to bf16.
    const Tensor wide = t.dtype() == DType::bf16 ? t.to(DType::f32) : t;
    run("all_reduce_sum", {1, static_cast<int64_t>(t.dtype()), t.numel(), 0}, t, [&](auto stream) {
      return nccl().all_reduce(wide.raw(), wide.raw(), static_cast<size_t>(wide.numel()),
                               nccl_type(wide.dtype()), ncclSum, comm_, stream);
    });
    if (t.dtype() == DType::bf16) t.copy_from(wide);
  }

  void send(const Tensor& t, int root) override {
    run("broadcast", {2, static_cast<int64_t>(t.dtype()), t.numel(), root}, t, [&](auto stream) {
      return nccl().broadcast(t.raw(), t.raw(), t.nbytes(), ncclUint8, root, comm_, stream);
    });
  }

  void gather(const Tensor& mine, const Tensor& all) override {
    run("all_gather", {3, static_cast<int64_t>(mine.dtype()), mine.numel(), 0}, mine,
        [&](auto stream) {
          return nccl().all_gather(mine.raw(), all.raw(), mine.nbytes(), ncclUint8, comm_, stream);
        });
  }

  template <class Start>
  void run(const char* function, const std::vector<int64_t>& call, const Tensor& t, Start&& start) {
    const cudaStream_t stream = stream_of(config().device);
    synchronize(config().device);
    compare(function, call);
    if (t.numel() == 0) return;
    check(start(stream), function);
    wait(function, [&] {
      const cudaError_t state = cudaStreamQuery(stream);
      if (state == cudaErrorNotReady) return false;
      CUDA_CHECK(state);
      return true;
    });
  }

  // Operation, dtype, elements and root are the same on every rank, or all throw.
  void compare(const char* function, const std::vector<int64_t>& call) {
    const auto n = static_cast<int64_t>(call.size());
    const Tensor all = Tensor::empty({size(), n}, DType::i64);
    host().all_gather(Tensor::from(call, {n}), all);
    const int64_t* values = all.data<int64_t>();
    for (int r = 1; r < size(); ++r) {
      CHECK(std::memcmp(values, values + r * n, static_cast<size_t>(n) * sizeof(int64_t)) == 0,
            "collective calls differ: rank ", r,
            " has another operation, dtype, size or root than rank 0 (one of them is in ", function,
            ")");
    }
  }

  // Until NCCL has nothing more to do on the host and done() holds.
  template <class Done>
  void wait(const char* function, Done&& done) {
    const auto begin = Clock::now();
    const auto deadline = begin + std::chrono::duration<double>(config().timeout);
    for (;;) {
      ncclResult_t state = ncclSuccess;
      check(nccl().async_error(comm_, &state), "ncclCommGetAsyncError");
      check(state, function);
      if (state == ncclSuccess && done()) return;
      if (Clock::now() >= deadline) {
        broken_ = true;
        throw Error(concat(function, ": NCCL did not finish within ", config().timeout,
                           " s; a rank has died or stalled (seen by rank ", rank(), ")"));
      }
      // Small messages take some 10 us, large ones ms.
      if (Clock::now() - begin > std::chrono::milliseconds(1)) {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }

  bool settled(std::chrono::seconds limit) {
    ncclResult_t state = ncclInProgress;
    for (const auto deadline = Clock::now() + limit; Clock::now() < deadline;) {
      if (nccl().async_error(comm_, &state) != ncclSuccess || state != ncclInProgress) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return state == ncclSuccess;
  }

  void check(ncclResult_t result, const char* call) {
    if (started(result)) return;
    broken_ = true;
    throw Error(concat("NCCL: ", call, " failed on rank ", rank(), ": ",
                       nccl().error_string(result), "; ", nccl().last_error(comm_)));
  }

  ncclComm_t comm_ = nullptr;
  bool broken_ = false;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(const CommunicatorConfig& config) {
  return std::make_unique<NcclCommunicator>(config);
}

}  // namespace parlo::cuda

#else

namespace parlo::cuda {

std::unique_ptr<Communicator> make_nccl_communicator(const CommunicatorConfig&) {
  throw Error(
      "NCCL: this build found no nccl.h; install libnccl-dev and build again, or let GPU tensors "
      "go "
      "through the host (CommunicatorConfig::through_host)");
}

}  // namespace parlo::cuda

#endif
#endif
