// Every subcommand of parlo: one file each, registered here. add_NAME declares the flags on a CLI11
// app and sets the callback that runs it.
#pragma once

#include <CLI/CLI.hpp>

namespace parlo {

void add_compare(CLI::App& parent);
void add_convert(CLI::App& parent);
void add_demo(CLI::App& parent);
void add_doctor(CLI::App& parent);
void add_eval(CLI::App& parent);
void add_forward(CLI::App& parent);
void add_init(CLI::App& parent);
void add_inspect(CLI::App& parent);
void add_merge(CLI::App& parent);
void add_plan(CLI::App& parent);
void add_pretrain(CLI::App& parent);
void add_report(CLI::App& parent);
void add_sample(CLI::App& parent);
void add_train(CLI::App& parent);

}  // namespace parlo
