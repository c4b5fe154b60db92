// A folder that is written under a temporary name beside its final place and disappears unless it
// is moved there: a command that fails leaves nothing behind.
#pragma once

#include <filesystem>

namespace parlo {

class ScratchFolder {
 public:
  explicit ScratchFolder(std::filesystem::path final_place);
  ~ScratchFolder();
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;

  const std::filesystem::path& place() const { return place_; }
  // Throws Error when something but an empty folder is there.
  void move_to_final();

 private:
  std::filesystem::path final_, place_;
};

}  // namespace parlo
