// safetensors: u64 little-endian header length, JSON header {name: {dtype, shape, data_offsets}},
// data. Offsets count from the end of the header; the tensors must tile the data without holes.
// Reading maps the file: a tensor whose bytes are aligned to its element size is a read-only view.
// A malformed file is refused as a whole, in one line with file, tensor and reason.
// Dtypes: F64 F32 F16 BF16 I64 I32 U8, and BOOL, which is read as u8. Every other one is refused.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensor/file.h"
#include "tensor/tensor.h"

namespace parlo {

class SafeTensors {
 public:
  struct Info {
    DType dtype = DType::f32;
    Shape shape;
    size_t offset = 0;  // of the first byte in its file
    size_t bytes = 0;
    int file = 0;  // index into files()
  };

  static SafeTensors open(const std::filesystem::path& file);

  // A component's weights, one file or several: `place` is a .safetensors file, a
  // .safetensors.index.json, or a folder with BASE.safetensors or BASE.safetensors.index.json.
  // With a variant ("fp16"): BASE.fp16.safetensors or BASE.safetensors.index.fp16.json. A folder
  // that has only one variant is opened without naming it.
  static SafeTensors open_sharded(const std::filesystem::path& place,
                                  const std::string& base = "model",
                                  const std::string& variant = "");

  // Sorted.
  std::vector<std::string> names() const;
  size_t size() const { return tensors_.size(); }
  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  // Throws Error naming the tensor and the file(s).
  const Info& info(const std::string& name) const;
  Tensor get(const std::string& name) const;
  // Takes the tensor's pages out of this process's memory once it was copied; they are read again
  // when touched.
  void release(const std::string& name) const;
  // __metadata__ of a single file; empty for a sharded one.
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const std::vector<std::filesystem::path>& files() const { return paths_; }

 private:
  static SafeTensors open_index(const std::filesystem::path& index);

  std::map<std::string, Info> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::shared_ptr<MappedFile>> maps_;
  std::vector<std::filesystem::path> paths_;
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

// Atomic. Laid out as the reference writer does it (wider elements first, then by name; header
// padded with spaces to 8 bytes): equal input gives equal bytes, and every tensor is aligned.
void save_safetensors(const std::filesystem::path& file, NamedTensors tensors,
                      const std::map<std::string, std::string>& metadata = {});

}  // namespace parlo
