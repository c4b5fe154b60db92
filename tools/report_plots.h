// The drawings of a report, as gnuplot series; used by tools/report.cpp.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tools/gnuplot.h"
#include "tools/run_history.h"

namespace parlo {

struct CaptionedPlot {
  std::string caption;  // plain text
  Plot plot;
};

// One projection for every pair of rewards, with all methods and iterations and the base.
std::vector<CaptionedPlot> pareto_plots(const RunHistory& log);

// Hypervolume with the base as reference: the merged models, and everything found so far.
struct HypervolumePoint {
  int64_t iteration = 0;
  double merged = 0, front = 0;
};
std::vector<HypervolumePoint> hypervolumes(const RunHistory& log, const std::string& method);
Plot hypervolume_plot(const RunHistory& log);

// Training and held-out reward of every expert over its optimiser steps.
std::vector<CaptionedPlot> reward_plots(const RunHistory& log);

// Ratio, clipping, KL, gradient norm... of one method, a line an expert.
std::vector<CaptionedPlot> health_plots(const RunHistory& log, const std::string& method);

}  // namespace parlo
