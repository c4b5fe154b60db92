// Plots as SVG text, drawn by gnuplot as a separate process.
#pragma once

#include <string>
#include <vector>

namespace parlo {

struct PlotSeries {
  std::string title;  // empty: not in the legend
  // gnuplot's words from "with" on, e.g. "with lines lw 2 lc rgb '#0072B2'".
  std::string style;
  std::vector<std::vector<double>> rows;  // equal lengths; not-a-number is a gap
  std::vector<std::string> labels;        // one a row for "with labels", else empty
};

struct Plot {
  std::string x_label, y_label;
  std::vector<PlotSeries> series;
  std::vector<double> vertical_lines;
  bool log_y = false;
  bool whole_x = false;  // ticks at whole numbers only
  std::string key = "outside bottom center horizontal";
  int width = 520, height = 400;
};

// False when no gnuplot is in PATH.
bool have_gnuplot();

// The <svg> element, ready to stand in a page beside others. `id` keeps their inner names apart.
// Throws Error with gnuplot's own words when it fails.
std::string draw_svg(const Plot& plot, const std::string& id);

}  // namespace parlo
