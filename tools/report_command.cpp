// parlo report: one HTML page about a run, and others beside it.
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "tools/commands.h"
#include "tools/report.h"

namespace parlo {

void add_report(CLI::App& parent) {
  struct Options {
    std::string run;
    std::vector<std::string> others;
  };
  auto o = std::make_shared<Options>();
  CLI::App* app = parent.add_subcommand("report", "One self-contained HTML page about a run");
  app->add_option("run", o->run, "Run folder; report.html is written into it")->required();
  app->add_option("--with", o->others, "Other run folders to compare with, on the same rewards");
  app->callback([o] {
    const std::vector<std::filesystem::path> others(o->others.begin(), o->others.end());
    write_report(o->run, others);
    std::printf("%s\n", (std::filesystem::path(o->run) / "report.html").c_str());
  });
}

}  // namespace parlo
