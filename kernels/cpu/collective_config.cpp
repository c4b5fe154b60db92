// What a communicator is made from: checks, the environment, the backend.
#include <charconv>
#include <cstdlib>
#include <optional>

#include "kernels/collective.h"
#include "kernels/dispatch.h"

namespace parlo {
namespace {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

std::optional<int> number(const char* name) {
  const std::string text = environment(name);
  if (text.empty()) return std::nullopt;
  int value = 0;
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data(), end, value);
  if (parsed.ec != std::errc() || parsed.ptr != end) {
    throw UsageError(concat("communicator: ", name, " is '", text, "', expected a number"));
  }
  return value;
}

// The one that is set; both must agree.
std::optional<int> either(const char* own, const char* torchrun) {
  const std::optional<int> a = number(own), b = number(torchrun);
  if (a && b && *a != *b) {
    throw UsageError(concat("communicator: ", own, " is ", *a, " and ", torchrun, " is ", *b,
                            "; unset one of them"));
  }
  return a ? a : b;
}

std::string address_from_environment() {
  const std::string own = environment("PARLO_ADDRESS");
  if (!own.empty()) return own;
  const std::string host = environment("MASTER_ADDR"), port = environment("MASTER_PORT");
  if (host.empty() != port.empty()) {
    throw UsageError(concat("communicator: ", host.empty() ? "MASTER_PORT" : "MASTER_ADDR",
                            " is set without ", host.empty() ? "MASTER_ADDR" : "MASTER_PORT"));
  }
  if (host.empty()) return "";
  const bool bare_ipv6 = host.find(':') != std::string::npos && host.front() != '[';
  return bare_ipv6 ? concat("[", host, "]:", port) : concat(host, ":", port);
}

void check_config(const CommunicatorConfig& config) {
  if (config.size < 1 || config.rank < 0 || config.rank >= config.size) {
    throw UsageError(concat("communicator: rank ", config.rank, " of ", config.size,
                            ", expected a rank from 0 to size - 1"));
  }
  if (!(config.timeout > 0)) {
    throw UsageError(concat("communicator: timeout is ", config.timeout, " s, expected above 0"));
  }
}

}  // namespace

CommunicatorConfig CommunicatorConfig::from_environment() {
  CommunicatorConfig config;
  const std::optional<int> rank = either("PARLO_RANK", "RANK");
  const std::optional<int> size = either("PARLO_WORLD_SIZE", "WORLD_SIZE");
  if (rank.has_value() != size.has_value()) {
    throw UsageError(concat("communicator: ", rank ? "a rank" : "a number of ranks",
                            " is set without ", rank ? "PARLO_WORLD_SIZE" : "PARLO_RANK",
                            "; set PARLO_RANK, PARLO_WORLD_SIZE and PARLO_ADDRESS, or none"));
  }
  const std::string address = address_from_environment();
  if (rank) config.rank = *rank, config.size = *size;
  check_config(config);
  if (config.size > 1 && address.empty()) {
    throw UsageError(concat("communicator: ", config.size,
                            " ranks and no address; set PARLO_ADDRESS to HOST:PORT of rank 0"));
  }
  if (!rank && !environment("PARLO_ADDRESS").empty()) {
    throw UsageError(
        "communicator: PARLO_ADDRESS is set without PARLO_RANK and PARLO_WORLD_SIZE; set all of "
        "them, or none");
  }
  if (!address.empty()) config.address = address;
  return config;
}

std::unique_ptr<Communicator> make_communicator(const CommunicatorConfig& config) {
  check_config(config);
  return DISPATCH(config.device, make_communicator(config));
}

}  // namespace parlo
