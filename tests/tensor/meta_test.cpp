// The meta device: tensors without values.
#include "tensor/meta.h"
#include "tensor/device_memory.h"

#include "tests/support.h"

namespace parlo::test {
namespace {

TEST_CASE("meta tensors count their bytes and hold none") {
  const int64_t before = memory_stats(kMeta).current_bytes;
  {
    // More than any machine has.
    const Tensor a = Tensor::zeros({1 << 20, 1 << 20, 16}, DType::f32, kMeta);
    CHECK(memory_stats(kMeta).current_bytes - before == int64_t{64} << 40);
    const Tensor half = a.slice(0, 0, 4).slice(1, 0, 8);
    const Tensor copy = half.contiguous().to(DType::bf16);
    CHECK(memory_stats(kMeta).current_bytes - before == (int64_t{64} << 40) + 4 * 8 * 16 * 2);
    CHECK(to_string(copy.device()) == "meta");
    const Tensor there = copy.to(Device{});
    CHECK(there.device().is_cpu());
    CHECK(there.to_vector() == std::vector<double>(4 * 8 * 16, 0.0));
    const Tensor back = there.to(kMeta);
    CHECK((back.shape() == Shape{4, 8, 16}));
  }
  CHECK(memory_stats(kMeta).current_bytes == before);
  CHECK(memory_stats(kMeta).peak_bytes >= int64_t{64} << 40);
}

}  // namespace
}  // namespace parlo::test
