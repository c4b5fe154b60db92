// One self-contained HTML page about a run.
#pragma once

#include <filesystem>
#include <vector>

namespace parlo {

// Reads metrics.jsonl, summary.json, config.toml and samples/*.png of a run folder and writes
// report.html into it (atomic). The scores, curves and merges of other runs stand beside its own.
// Without gnuplot the page says so and holds the tables only.
void write_report(const std::filesystem::path& run_folder,
                  const std::vector<std::filesystem::path>& others = {});

}  // namespace parlo
