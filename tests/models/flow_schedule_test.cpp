// Noise levels against diffusers' FlowMatchEulerDiscreteScheduler, which rounds them to f32.
#include "models/flow_schedule.h"

#include "tensor/file.h"
#include "tensor/safetensors.h"
#include "tests/support.h"

namespace parlo {
namespace {

using namespace test;

void check_levels(const std::vector<double>& ours, const Tensor& theirs) {
  const std::vector<double> e = theirs.to_vector();
  DOCTEST_REQUIRE(ours.size() == e.size());
  for (size_t i = 0; i < e.size(); ++i) CHECK(std::abs(ours[i] - e[i]) < 3e-7);
}

TEST_CASE("levels are the scheduler's") {
  const SafeTensors expected = SafeTensors::open(golden("optim/flow_match.safetensors"));
  for (int64_t steps : {8, 10, 40}) {
    check_levels(shifted_sigmas(steps, 3.0), expected.get(concat("shift3.sigmas.", steps)));
  }
  check_levels(dynamic_sigmas(6, 1024), expected.get("dynamic1024.sigmas.6"));
  check_levels(dynamic_sigmas(28, 4096), expected.get("dynamic4096.sigmas.28"));
}

TEST_CASE("a static shift of given levels acts once") {
  CHECK(once_shifted_sigmas(4, 1.0) == linear_sigmas(4));
  const std::vector<double> s = once_shifted_sigmas(2, 3.0);  // 1, 0.5, 0
  CHECK(s[0] == 1.0);
  CHECK(s[1] == doctest::Approx(0.75));
  CHECK(s[2] == 0.0);
}

TEST_CASE("a scheduler's configuration decides, and what is unknown is refused") {
  const TemporaryFolder folder;
  const std::string path = folder / "scheduler_config.json";
  const auto read = [&](const std::string& text) {
    write_file(path, text);
    return FluxSchedule::from_json(path);
  };
  CHECK(read("{}").sigmas(5, 64) == linear_sigmas(5));
  CHECK(read(R"({"shift": 3.0, "time_shift_type": "exponential"})").sigmas(5, 64) ==
        once_shifted_sigmas(5, 3.0));
  FluxSchedule dev;
  dev.shift = 3.0;
  dev.use_dynamic_shifting = true;
  dev.dynamic.most = 1.25;
  dev.dynamic.most_tokens = 4000;
  const FluxSchedule again = read(dev.to_json());
  CHECK(again.to_json() == dev.to_json());
  CHECK(again.sigmas(6, 900) == dynamic_sigmas(6, 900, {0.5, 1.25, 256, 4000}));
  for (const char* wrong : {R"({"use_karras_sigmas": true})", R"({"invert_sigmas": true})",
                            R"({"shift_terminal": 0.1})", R"({"time_shift_type": "linear"})"}) {
    INFO(wrong);
    CHECK(contains(message_of([&] { read(wrong); }), "expected"));
  }
}

}  // namespace
}  // namespace parlo
