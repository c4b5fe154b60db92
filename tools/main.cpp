// parlo: one binary, one subcommand a job. Exit code 0 done, 1 failed, 2 bad usage or input.
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>

#include "tensor/error.h"
#include "tools/commands.h"
#include "tools/openmp.h"
#include "tools/run_folder.h"

int main(int argc, char** argv) {
  parlo::ensure_single_threaded_openmp(argv);
  // A write beyond `ulimit -f` then fails with a message instead of ending the process.
  std::signal(SIGXFSZ, SIG_IGN);
  CLI::App app{"parlo trains image generators against several preferences at once", "parlo"};
  app.require_subcommand(1);
  app.set_version_flag("--version", parlo::build_version());
  parlo::add_demo(app);
  parlo::add_train(app);
  parlo::add_pretrain(app);
  parlo::add_sample(app);
  parlo::add_eval(app);
  parlo::add_compare(app);
  parlo::add_report(app);
  parlo::add_merge(app);
  parlo::add_convert(app);
  parlo::add_forward(app);
  parlo::add_init(app);
  parlo::add_inspect(app);
  parlo::add_plan(app);
  parlo::add_doctor(app);
  if (argc == 1) {
    std::fputs(app.help().c_str(), stderr);
    return 2;
  }
  try {
    // CLI11 would say only that a subcommand is missing.
    const auto named = [&](const CLI::App* command) { return command->get_name() == argv[1]; };
    const auto commands = app.get_subcommands({});
    if (argv[1][0] != '-' && std::none_of(commands.begin(), commands.end(), named)) {
      throw parlo::UsageError(parlo::concat("there is no command ", argv[1], "; see parlo --help"));
    }
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return app.exit(e);  // --help, --version
    std::fprintf(stderr, "parlo: %s; see --help\n", e.what());
    return 2;
  } catch (const parlo::UsageError& e) {
    std::fprintf(stderr, "parlo: %s\n", e.what());
    return 2;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "parlo: %s\n", e.what());
    return 1;
  }
  return 0;
}
