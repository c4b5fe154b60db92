// The few pieces of HTML a report is made of.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace parlo {

std::string html_escape(std::string_view text);
std::string base64(std::string_view bytes);

// Cells hold HTML; a cell that starts with '-', '+' or a digit is set flush right.
struct HtmlTable {
  std::vector<std::string> head;
  std::vector<std::vector<std::string>> rows;
};
std::string html_table(const HtmlTable& table);

// A drawing or picture with its caption, which is HTML.
std::string html_figure(const std::string& content, const std::string& caption);

// The whole page around the sections; nothing in it is loaded from elsewhere.
std::string html_page(const std::string& title, const std::string& body);

// "0.613", "1.2e-06", "n/a".
std::string format_value(double x);
// With its sign.
std::string format_change(double x);

}  // namespace parlo
