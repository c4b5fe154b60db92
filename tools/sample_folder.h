// The folder that `parlo sample` draws into: 00000.png ..., prompts.jsonl, and sample.json with the
// settings. Every picture is whole or not there, so that a call which was killed can be repeated:
// it draws what is missing.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "rl/rewards/png.h"
#include "rl/rewards/png_text.h"
#include "rl/rewards/prompt.h"
#include "tensor/file.h"

namespace parlo {

class SampleFolder {
 public:
  // settings: all that the pictures depend on besides the prompts. Nothing is written. UsageError
  // where the folder holds pictures of other settings, which are named, or of other prompts.
  SampleFolder(std::filesystem::path folder, nlohmann::ordered_json settings,
               std::vector<Prompt> prompts);

  // Places in the list of prompts whose pictures are not there.
  std::vector<size_t> missing() const;
  // Writes settings and prompts and keeps the folder for this process.
  void begin();
  void add(size_t place, const Image& image, const PngTexts& texts) const;
  // grid.png of all pictures, or of the first ones where they are too many for one sheet.
  // columns, scale: 0 means chosen. The number of pictures on the sheet.
  size_t write_grid(int64_t columns, int64_t scale) const;

 private:
  std::filesystem::path picture(size_t place) const;
  void check_settings() const;

  std::filesystem::path folder_;
  nlohmann::ordered_json settings_;
  std::vector<Prompt> prompts_;
  std::string prompt_lines_;
  std::optional<FolderLock> mine_;
};

}  // namespace parlo
