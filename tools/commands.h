// Every subcommand of parlo: one file each, registered here. add_NAME declares the flags on a CLI11
// app and sets the callback that runs it.
#pragma once

#include <CLI/CLI.hpp>

namespace parlo {

void add_compare(CLI::App& parent);
void add_demo(CLI::App& parent);
void add_pretrain(CLI::App& parent);
void add_report(CLI::App& parent);
void add_train(CLI::App& parent);

}  // namespace parlo
