// Values of collective operations between real processes, over TCP and through shared memory.
#include "kernels/collective.h"

#include <cstdlib>

#include "tests/kernels/collective_support.h"

using namespace parlo;
using namespace parlo::test;

namespace {

// Children are forks of this process and cannot use the threads of its pool.
const bool kOneThread = (set_num_threads(1), true);

const std::vector<DType> kSummed = {DType::f32, DType::f64, DType::bf16, DType::i64};

// What rank `rank` brings: sums of it depend on their order, those of i64 overflow.
Tensor brought(const Shape& shape, int rank, DType dtype) {
  const Tensor normal = random_tensor(shape, static_cast<uint32_t>(11 + rank), DType::f64);
  if (dtype != DType::i64) return normal.to(dtype);
  Tensor t = Tensor::empty(shape, DType::i64);
  for (int64_t i = 0; i < t.numel(); ++i) {
    t.data<int64_t>()[i] = static_cast<int64_t>(normal.data<double>()[i] * 4e18);
  }
  return t;
}

// A plain loop in the order of the ranks.
Tensor summed(const Shape& shape, int size, DType dtype) {
  Tensor out = brought(shape, 0, dtype);
  std::vector<Tensor> parts;
  for (int rank = 0; rank < size; ++rank) parts.push_back(brought(shape, rank, dtype));
  for (int64_t i = 0; i < out.numel(); ++i) {
    visit_dtype(dtype, [&](auto zero) {
      using T = decltype(zero);
      T* to = out.data<T>() + i;
      if constexpr (std::is_same_v<T, bf16_t>) {
        float sum = to_float(*to);
        for (int r = 1; r < size; ++r) sum += to_float(parts[r].data<T>()[i]);
        *to = to_bf16(sum);
      } else if constexpr (std::is_same_v<T, int64_t>) {
        auto sum = static_cast<uint64_t>(*to);
        for (int r = 1; r < size; ++r) sum += static_cast<uint64_t>(parts[r].data<T>()[i]);
        *to = static_cast<T>(sum);
      } else if constexpr (std::is_floating_point_v<T>) {
        for (int r = 1; r < size; ++r) *to += parts[r].data<T>()[i];
      }
    });
  }
  return out;
}

const std::vector<Shape> kShapes = {{0}, {1}, {7}, {3, 0, 2}, {33, 17}, {1024}, {1025}};

std::string check_sums(Communicator& c) {
  for (const DType dtype : kSummed) {
    for (const Shape& shape : kShapes) {
      Tensor t = brought(shape, c.rank(), dtype);
      c.all_reduce_sum(t);
      if (!same_bits(t, summed(shape, c.size(), dtype))) {
        return concat("sum of ", shape, " ", dtype_name(dtype));
      }
    }
  }
  return "good";
}

std::string check_moves(Communicator& c) {
  for (const DType dtype : {DType::f32, DType::f64, DType::bf16, DType::i64, DType::u8}) {
    for (const Shape& shape : kShapes) {
      const auto of = [&](int rank) {
        return dtype == DType::u8 ? brought(shape, rank, DType::f64).to(dtype)
                                  : brought(shape, rank, dtype);
      };
      for (int root = 0; root < c.size(); ++root) {
        Tensor t = of(c.rank());
        c.broadcast(t, root);
        if (!same_bits(t, of(root))) return concat("broadcast of ", shape, " from ", root);
      }
      Shape together{c.size()};
      for (int i = 0; i < shape.rank(); ++i) together.push_back(shape[i]);
      Tensor all = Tensor::zeros(together, dtype);
      c.all_gather(of(c.rank()), all);
      for (int r = 0; r < c.size(); ++r) {
        if (!same_bits(all.select(0, r), of(r))) return concat("all_gather of ", shape, ", ", r);
      }
    }
  }
  return "good";
}

// Cheap values of any size.
Tensor ramp(int64_t n, int rank) {
  Tensor t = Tensor::empty({n});
  uint32_t state = static_cast<uint32_t>(rank) * 2654435761u + 1;
  for (float& x : t.span<float>()) {
    state = state * 1664525u + 1013904223u;
    x = 1.0f / static_cast<float>(static_cast<int32_t>(state >> 8) - (1 << 23) + 1);
  }
  return t;
}

// 5 MB and a bit: ends in the middle of a piece.
constexpr int64_t kLarge = 1250001;

std::string large(Communicator& c) {
  Tensor t = ramp(kLarge, c.rank()), last = t.clone(), all = Tensor::empty({c.size(), kLarge});
  c.all_gather(t, all);
  c.all_reduce_sum(t);
  c.broadcast(last, c.size() - 1);
  for (int r = 0; r < c.size(); ++r) {
    if (!same_bits(all.select(0, r), ramp(kLarge, r))) return concat("all_gather, rank ", r);
  }
  if (!same_bits(last, all.select(0, c.size() - 1))) return "broadcast";
  Tensor sum = all.select(0, 0).clone();
  for (int r = 1; r < c.size(); ++r) {
    const Tensor part = all.select(0, r);
    for (int64_t i = 0; i < kLarge; ++i) sum.data<float>()[i] += part.data<float>()[i];
  }
  return same_bits(sum, t) ? "good" : "all_reduce_sum";
}

std::string with_environment(const std::vector<std::pair<const char*, const char*>>& values) {
  for (const char* name : {"PARLO_RANK", "PARLO_WORLD_SIZE", "PARLO_ADDRESS", "RANK", "WORLD_SIZE",
                           "MASTER_ADDR", "MASTER_PORT"}) {
    ::unsetenv(name);
  }
  for (const auto& [name, value] : values) ::setenv(name, value, 1);
  try {
    const CommunicatorConfig c = CommunicatorConfig::from_environment();
    return concat(c.rank, " of ", c.size, " at ", c.address);
  } catch (const UsageError& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("sums over ranks are the plain loop's bits") {
  for (const int size : {2, 3}) {
    for (const bool shared : {false, true}) {
      INFO(size, " ranks, shared memory ", shared);
      const auto texts = run_ranks(ranks(size, shared), check_sums);
      for (const std::string& text : texts) CHECK(text == "good");
    }
  }
}

TEST_CASE("broadcast and all_gather move every dtype") {
  for (const int size : {2, 3}) {
    for (const bool shared : {false, true}) {
      INFO(size, " ranks, shared memory ", shared);
      const auto texts = run_ranks(ranks(size, shared), check_moves);
      for (const std::string& text : texts) CHECK(text == "good");
    }
  }
}

TEST_CASE("megabytes over TCP") {
  for (const int size : {2, 3}) CHECK(all_are(run_ranks(ranks(size, false), large), "good"));
}

TEST_CASE("megabytes through shared memory") {
  for (const int size : {2, 3}) CHECK(all_are(run_ranks(ranks(size, true), large), "good"));
}

TEST_CASE("the order of arrival changes nothing") {
  const auto run = [](bool shared, int first) {
    return run_ranks(ranks(3, shared), [first](Communicator& c) {
      std::string prints;
      for (int i = 0; i < 4; ++i) {
        sleep_ms((c.rank() + first + i) % 3 * 10);
        Tensor t = brought({1000}, c.rank(), DType::f32);
        c.all_reduce_sum(t);
        prints += fingerprint(t);
      }
      return prints;
    });
  };
  const auto expected = run(false, 0);
  CHECK(all_are(expected, expected[0]));
  for (const bool shared : {false, true}) {
    for (int first = 1; first < 3; ++first) CHECK(all_are(run(shared, first), expected[0]));
  }
}

TEST_CASE("a barrier waits for the last one") {
  const auto texts = run_ranks(ranks(3), [](Communicator& c) -> std::string {
    c.barrier();
    const auto begin = std::chrono::steady_clock::now();
    if (c.rank() == 2) sleep_ms(60);
    c.barrier();
    return seconds_since(begin) >= 0.04 ? "good" : "too early";
  });
  CHECK(all_are(texts, "good"));
}

TEST_CASE("one rank needs nobody") {
  const auto c = make_communicator({});
  CHECK(c->rank() == 0);
  CHECK(c->size() == 1);
  CHECK(check_sums(*c) == "good");
  CHECK(check_moves(*c) == "good");
  c->barrier();
}

TEST_CASE("IPv6") {
  const ReservedPort port(true);
  if (!port.ok()) return;  // a machine without it
  const auto texts = run_processes(2, [&](int rank) {
    CommunicatorConfig config = ranks(2);
    config.rank = rank, config.address = port.address();
    return check_sums(*make_communicator(config));
  });
  CHECK(all_are(texts, "good"));
}

TEST_CASE("a communicator from the environment") {
  CHECK(with_environment({}) == "0 of 1 at 127.0.0.1:29400");
  CHECK(with_environment(
            {{"PARLO_RANK", "1"}, {"PARLO_WORLD_SIZE", "3"}, {"PARLO_ADDRESS", "a:5"}}) ==
        "1 of 3 at a:5");
  using Values = std::vector<std::pair<const char*, const char*>>;
  Values torchrun = {
      {"RANK", "2"}, {"WORLD_SIZE", "4"}, {"MASTER_ADDR", "h"}, {"MASTER_PORT", "7"}};
  CHECK(with_environment(torchrun) == "2 of 4 at h:7");
  torchrun.emplace_back("PARLO_ADDRESS", "h:8");
  CHECK(with_environment(torchrun) == "2 of 4 at h:8");
  torchrun.emplace_back("PARLO_RANK", "1");
  CHECK(contains(with_environment(torchrun), "PARLO_RANK is 1 and RANK is 2"));
  CHECK(with_environment(
            {{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "::1"}, {"MASTER_PORT", "7"}}) ==
        "0 of 2 at [::1]:7");
  CHECK(contains(with_environment({{"PARLO_RANK", "1"}}), "without PARLO_WORLD_SIZE"));
  CHECK(contains(with_environment({{"WORLD_SIZE", "2"}}), "without PARLO_RANK"));
  CHECK(contains(with_environment({{"PARLO_ADDRESS", "h:8"}}), "without PARLO_RANK"));
  CHECK(contains(with_environment({{"RANK", "0"}, {"WORLD_SIZE", "2"}}), "set PARLO_ADDRESS"));
  CHECK(contains(with_environment({{"RANK", "0"}, {"WORLD_SIZE", "2"}, {"MASTER_ADDR", "h"}}),
                 "without MASTER_PORT"));
  CHECK(contains(with_environment({{"RANK", "2"}, {"WORLD_SIZE", "2"}}), "rank 2 of 2"));
  CHECK(contains(with_environment({{"RANK", "x"}, {"WORLD_SIZE", "2"}}), "RANK is 'x'"));
  with_environment({});
}
