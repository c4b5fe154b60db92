// A whole run on the GPU backend: experts, merge, fold and the next iteration, against the CPU's.
#include "tests/gpu_support.h"
#include "tests/rl/mapreduce_bench.h"

namespace parlo::test {
namespace {

AdapterFile merged_on(Device device, const MapReduceConfig& config) {
  const TemporaryFolder folder;
  MapReduce job(
      [device] {
        auto model = tiny_pipeline();
        model->to(device);
        return model;
      },
      tiny_tasks(2, 4), config, folder.path(), {});
  job.run();
  return adapter_of(folder, "merged");
}

double difference(const MapReduceConfig& config) {
  Deltas cpu, gpu;
  add_delta(cpu, merged_on(Device{}, config), 1.0);
  add_delta(gpu, merged_on(kGpu, config), 1.0);
  return distance(cpu, gpu);
}

}  // namespace

TEST_CASE("gpu: two iterations end where the CPU's do") {
  MapReduceConfig config = tiny_run(2);
  config.evaluate_experts = false;
  CHECK(difference(config) <= 1e-3);
}

TEST_CASE("gpu: the same where adapters and moments are carried on") {
  MapReduceConfig config = tiny_run(2);
  config.evaluate_experts = false;
  config.factor_mean = true;
  config.carry = OptimizerCarry::average;
  CHECK(difference(config) <= 1e-3);
}

}  // namespace parlo::test
