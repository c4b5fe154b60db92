#include "tools/scratch_folder.h"

#include <unistd.h>

#include <atomic>

#include "tensor/error.h"
#include "tensor/file.h"

namespace parlo {
namespace fs = std::filesystem;

ScratchFolder::ScratchFolder(fs::path final_place) : final_(std::move(final_place)) {
  static std::atomic<int> count{0};
  if (!final_.has_filename()) final_ = final_.parent_path();  // "dir/"
  place_ = concat(final_.string(), ".partial-", ::getpid(), "-", count++);
  make_folders(place_);
}

ScratchFolder::~ScratchFolder() {
  std::error_code ignored;
  fs::remove_all(place_, ignored);
}

void ScratchFolder::move_to_final() {
  std::error_code failed;
  fs::remove(final_, failed);  // an empty folder at most
  fs::rename(place_, final_, failed);
  CHECK(!failed, final_.string(), ": cannot be made: ", failed.message());
}

}  // namespace parlo
