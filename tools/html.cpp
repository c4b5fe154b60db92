#include "tools/html.h"

#include <cmath>
#include <cstdint>
#include <cstdio>

#include "tensor/error.h"

namespace parlo {

namespace {

constexpr const char* kStyle = R"css(
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 72rem; background: #fff; color: #1a1a1a;
       font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.4rem 0 .6rem; padding-top: .6rem; border-top: 1px solid #ccc; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; }
p { margin: .4rem 0 .8rem; max-width: 46rem; }
.quiet { color: #555; font-size: .9rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12.5rem, 1fr)); gap: .8rem; margin: 1rem 0; }
.card { border: 1px solid #ccc; border-radius: .4rem; padding: .6rem .8rem; }
.card b { display: block; font-size: 1.35rem; white-space: nowrap; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card span { color: #444; font-size: .85rem; }
.good { color: #00603f; } .bad { color: #a3130f; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 25rem), 1fr)); gap: 1.2rem 1.6rem; }
.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); }
figure { margin: 0; } figcaption { color: #333; font-size: .9rem; margin-top: .2rem; }
figure svg { width: 100%; height: auto; display: block; }
figure img { width: 100%; height: auto; display: block; image-rendering: pixelated; border: 1px solid #ddd; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; text-align: left; border-bottom: 1px solid #e2e2e2; white-space: nowrap; }
th { border-bottom: 1px solid #888; } td.n, th.n { text-align: right; }
td b { font-weight: 650; }
pre { background: #f6f6f6; border: 1px solid #ddd; padding: .7rem; overflow-x: auto; font-size: .82rem; }
details summary { cursor: pointer; color: #333; margin: .5rem 0; }
)css";

std::string text_of(const std::string& cell) {
  std::string out;
  bool inside = false;
  for (char c : cell) {
    if (c == '<') inside = true;
    if (!inside) out += c;
    if (c == '>') inside = false;
  }
  return out;
}

bool is_number(const std::string& cell) {
  if (cell.starts_with("<code")) return false;
  const std::string text = text_of(cell);
  if (text.empty()) return false;
  const char c = text[0];
  return c == '-' || c == '+' || (c >= '0' && c <= '9') || text == "n/a";
}

std::string print(const char* format, double x) {
  char text[64];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

}  // namespace

std::string html_escape(std::string_view text) {
  std::string out;
  for (char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string base64(std::string_view bytes) {
  static constexpr char kDigits[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const auto at = [&](size_t k) -> uint32_t {
      return i + k < bytes.size() ? static_cast<unsigned char>(bytes[i + k]) : 0;
    };
    const uint32_t bits = at(0) << 16 | at(1) << 8 | at(2);
    out += kDigits[bits >> 18];
    out += kDigits[bits >> 12 & 63];
    out += i + 1 < bytes.size() ? kDigits[bits >> 6 & 63] : '=';
    out += i + 2 < bytes.size() ? kDigits[bits & 63] : '=';
  }
  return out;
}

std::string html_table(const HtmlTable& table) {
  const auto column_is_number = [&](size_t c) {
    return c > 0 && !table.rows.empty() && c < table.rows[0].size() && is_number(table.rows[0][c]);
  };
  std::string out = "<div class=\"scroll\"><table><thead><tr>";
  for (size_t c = 0; c < table.head.size(); ++c) {
    out += concat(column_is_number(c) ? "<th class=\"n\">" : "<th>", table.head[c], "</th>");
  }
  out += "</tr></thead><tbody>\n";
  for (const auto& row : table.rows) {
    out += "<tr>";
    for (const std::string& cell : row) {
      out += concat(is_number(cell) ? "<td class=\"n\">" : "<td>", cell, "</td>");
    }
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string html_figure(const std::string& content, const std::string& caption) {
  return concat("<figure>", content, "<figcaption>", caption, "</figcaption></figure>\n");
}

std::string html_page(const std::string& title, const std::string& body) {
  return concat("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n",
                "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>",
                html_escape(title), "</title>\n<style>", kStyle, "</style></head>\n<body>\n", body,
                "</body></html>\n");
}

std::string format_value(double x) {
  if (!std::isfinite(x)) return "n/a";
  const double size = std::abs(x);
  if (x == std::floor(x) && size < 1e6) return print("%.0f", x);
  if (size >= 100) return print("%.1f", x);
  if (size >= 10) return print("%.2f", x);
  if (size >= 1e-2) return print("%.3f", x);
  if (size >= 1e-3) return print("%.4f", x);
  return print("%.1e", x);
}

std::string format_change(double x) {
  if (!std::isfinite(x)) return "n/a";
  return concat(x >= 0 ? "+" : "", format_value(x));
}

}  // namespace parlo
