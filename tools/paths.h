// Checks of paths from the command line, before any work is done: UsageError in one line.
#pragma once

#include <filesystem>
#include <string>

namespace parlo {

// `flag` is what the user typed, e.g. "--base"; `expected` says what the folder should be.
void require_folder(const std::filesystem::path& path, const std::string& flag,
                    const std::string& expected);
// A folder or a file.
void require_place(const std::filesystem::path& path, const std::string& flag,
                   const std::string& expected);
void require_file(const std::filesystem::path& path, const std::string& flag);
// The folder a result file goes to exists and can be written.
void require_writable_parent(const std::filesystem::path& file, const std::string& flag);
// `folder` can be created, or is a folder that can be written.
void require_writable_folder(const std::filesystem::path& folder, const std::string& flag);
// As before, and nothing is there yet (an empty folder counts as nothing).
void require_new_folder(const std::filesystem::path& folder, const std::string& flag);

}  // namespace parlo
