// The Communicator of the CPU: tensors in pieces of kPiece bytes, each a step or two of a Star. The
// bytes go through shared memory where there is a segment, up to rank 0 and down again otherwise.
//
// The segment holds a slot a rank and one for the result. A slot is written before the first step
// of a piece and read between its steps; the result is written between them and read after the
// second, so that the next piece may begin at once.
#include "kernels/collective.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernels/collective_checks.h"
#include "kernels/cpu/collective_segment.h"
#include "kernels/cpu/collective_star.h"
#include "kernels/cpu/collective_sum.h"

namespace parlo::cpu {
namespace {

// In the L2 with its sum; 0.5 to 2 MiB measured the same.
constexpr size_t kPiece = 1u << 20;

std::span<std::byte> bytes_of(const Tensor& t) {
  return {static_cast<std::byte*>(t.raw()), t.nbytes()};
}

void copy(std::span<std::byte> to, std::span<const std::byte> from) {
  CHECK(to.size() == from.size(), "communicator: a piece of ", from.size(), " bytes, expected ",
        to.size());
  if (!to.empty() && to.data() != from.data()) std::memcpy(to.data(), from.data(), to.size());
}

class CpuCommunicator final : public Communicator {
 public:
  explicit CpuCommunicator(const CommunicatorConfig& config)
      : Communicator(config.rank, config.size), star_(config) {
    if (size() > 1) guarded([&] { share_memory(config.shared_memory); });
  }

  void all_reduce_sum(const Tensor& t) override {
    guarded([&] {
      require_cpu("all_reduce_sum", t);
      check_all_reduce(t);
      const CollectiveCall call{CollectiveOp::all_reduce_sum, t.dtype(), 0, t.nbytes()};
      if (size() > 1) {
        pieces(t.nbytes(), [&](size_t at, size_t n) { reduce(call, bytes_of(t).subspan(at, n)); });
      }
    });
  }

  void broadcast(const Tensor& t, int root) override {
    guarded([&] {
      require_cpu("broadcast", t);
      check_broadcast(t, root, rank(), size());
      const CollectiveCall call{CollectiveOp::broadcast, t.dtype(), root, t.nbytes()};
      if (size() > 1) {
        pieces(t.nbytes(), [&](size_t at, size_t n) { send(call, bytes_of(t).subspan(at, n)); });
      }
    });
  }

  void all_gather(const Tensor& mine, const Tensor& all) override {
    guarded([&] {
      require_cpu("all_gather", mine);
      check_all_gather(mine, all, size());
      const CollectiveCall call{CollectiveOp::all_gather, mine.dtype(), 0, mine.nbytes()};
      if (size() == 1) return copy(bytes_of(all), bytes_of(mine));
      pieces(mine.nbytes(), [&](size_t at, size_t n) { gather(call, mine, all, at, n); });
    });
  }

  void barrier() override {
    guarded([&] {
      if (size() > 1) star_.step({CollectiveOp::barrier});
    });
  }

  [[noreturn]] void fail(const std::string& why) override { star_.fail(why); }

 private:
  // Whatever ends an operation here ends it on every rank: the others cannot go on without this.
  template <class Body>
  void guarded(Body&& body) {
    star_.check_usable();
    try {
      body();
    } catch (const std::exception& error) {
      star_.fail(error.what());
    }
  }

  static void require_cpu(const char* function, const Tensor& t) {
    CHECK(t.device().is_cpu(), function, ": the tensor is on ", to_string(t.device()),
          ", the communicator on cpu; set CommunicatorConfig::device");
  }

  // An empty tensor is one empty piece: the ranks still compare their calls.
  template <class Body>
  static void pieces(size_t bytes, Body&& body) {
    size_t at = 0;
    do {
      const size_t n = std::min(kPiece, bytes - at);
      body(at, n);
      at += n;
    } while (at < bytes);
  }

  std::span<std::byte> slot(int i, size_t n) const {
    return segment_.bytes().subspan(static_cast<size_t>(i) * kPiece, n);
  }

  // Rank 0 makes the segment; it is used when every rank could open it.
  void share_memory(bool wanted) {
    const CollectiveCall call{CollectiveOp::rendezvous};
    const size_t bytes = (static_cast<size_t>(size()) + 1) * kPiece;
    std::array<std::byte, 64> name{};
    if (rank() == 0 && wanted) segment_ = SharedSegment::create(bytes);
    std::memcpy(name.data(), segment_.name().data(), segment_.name().size());
    star_.step(call, {}, name, nullptr);
    const std::string text(reinterpret_cast<const char*>(name.data()));
    if (rank() != 0 && wanted && !text.empty()) segment_ = SharedSegment::open(text, bytes);
    std::byte opened{segment_ ? uint8_t{1} : uint8_t{0}};
    star_.step(call, {&opened, 1}, {&opened, 1}, [](const Star::Parts& parts, auto down) {
      for (const auto& part : parts) down[0] &= part[0];
    });
    segment_.unlink();
    if (opened == std::byte{0}) segment_ = {};
  }

  // piece = sum of piece over the ranks; in shared memory each rank sums a share of it.
  void reduce(const CollectiveCall& call, std::span<std::byte> piece) {
    if (!segment_) {
      star_.step(call, piece, piece, [&](const Star::Parts& parts, auto down) {
        sum_share(call.dtype, parts, down, 0, down.size());
      });
      return;
    }
    copy(slot(rank(), piece.size()), piece);
    star_.step(call);
    Star::Parts parts;
    for (int r = 0; r < size(); ++r) parts.emplace_back(slot(r, piece.size()));
    const size_t element = dtype_size(call.dtype), count = piece.size() / element;
    const auto share = [&](int r) {
      return count * static_cast<size_t>(r) / static_cast<size_t>(size()) * element;
    };
    const std::span<std::byte> result = slot(size(), piece.size());
    sum_share(call.dtype, parts, result, share(rank()), share(rank() + 1));
    star_.step(call);
    copy(piece, result);
  }

  static void sum_share(DType dtype, const Star::Parts& parts, std::span<std::byte> result,
                        size_t begin, size_t end) {
    std::vector<const std::byte*> at;
    for (const auto& part : parts) {
      CHECK(part.size() == result.size(), "all_reduce_sum: pieces of ", part.size(), " and ",
            result.size(), " bytes");
      at.push_back(part.data() + begin);
    }
    sum_parts(dtype, at, result.data() + begin, end - begin);
  }

  void send(const CollectiveCall& call, std::span<std::byte> piece) {
    const bool mine = call.root == rank();
    if (!segment_) {
      const auto root = static_cast<size_t>(call.root);
      star_.step(call, mine ? piece : piece.first(0), piece,
                 [&](const Star::Parts& parts, auto down) { copy(down, parts[root]); });
      return;
    }
    if (mine) copy(slot(rank(), piece.size()), piece);
    star_.step(call);
    if (!mine) copy(piece, slot(call.root, piece.size()));
    star_.step(call);
  }

  void gather(const CollectiveCall& call, const Tensor& mine, const Tensor& all, size_t at,
              size_t n) {
    const std::span<const std::byte> piece = bytes_of(mine).subspan(at, n);
    const auto part_of_all = [&](size_t r) {
      return bytes_of(all).subspan(r * call.bytes + at, n);
    };
    const auto ranks = static_cast<size_t>(size());
    if (!segment_) {
      room_.resize(ranks * n);
      const auto part = [&](size_t r) { return std::span(room_).subspan(r * n, n); };
      star_.step(call, piece, room_, [&](const Star::Parts& parts, auto) {
        for (size_t r = 0; r < ranks; ++r) copy(part(r), parts[r]);
      });
      for (size_t r = 0; r < ranks; ++r) copy(part_of_all(r), part(r));
      return;
    }
    copy(slot(rank(), n), piece);
    star_.step(call);
    for (size_t r = 0; r < ranks; ++r) copy(part_of_all(r), slot(static_cast<int>(r), n));
    star_.step(call);
  }

  Star star_;
  SharedSegment segment_;
  std::vector<std::byte> room_;
};

}  // namespace

std::unique_ptr<Communicator> make_communicator(const CommunicatorConfig& config) {
  return std::make_unique<CpuCommunicator>(config);
}

}  // namespace parlo::cpu
