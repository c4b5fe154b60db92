// Input: a safetensors file; or, behind the letter I, an index, and two shards. To reach what lies
// behind the length field, a file may also be given as its header alone, behind the letter H.
#include "tensor/safetensors.h"

#include <cstring>
#include <stdexcept>

#include "tests/fuzz/folder.h"
#include "tests/fuzz/targets.h"

namespace parlo::fuzz {
namespace {

std::string with_length(std::string_view header) {
  const uint64_t length = header.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out.append(header) + std::string(64, '\1');
}

// Reads every byte of every tensor.
void touch(const SafeTensors& file) {
  volatile unsigned char last = 0;
  for (const std::string& name : file.names()) {
    const SafeTensors::Info& info = file.info(name);
    const Tensor t = file.get(name);
    if (!(t.shape() == info.shape) || t.dtype() != info.dtype) throw std::logic_error("get");
    const auto* bytes = static_cast<const unsigned char*>(t.raw());
    for (size_t i = 0; i < info.bytes; ++i) last = bytes[i];
  }
}

}  // namespace

void safetensors(std::string_view input) {
  static const Folder folder;
  if (input.starts_with('I')) {
    const auto parts = parts_of(input.substr(1), 3);
    folder.write("model.safetensors.index.json", parts[0]);
    folder.write("a", with_length(parts[1]));
    folder.write("b", with_length(parts[2]));
    touch(SafeTensors::open_sharded(folder.path() / "model.safetensors.index.json"));
  } else {
    folder.write("x", input.starts_with('H') ? with_length(input.substr(1)) : std::string(input));
    touch(SafeTensors::open(folder.path() / "x"));
  }
}

}  // namespace parlo::fuzz
