#pragma once

#include <algorithm>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "../machine.hpp"

namespace trtlab::bench {

/// Lets two contenders measure in turn, so that whatever else the machine does hits both alike, and keeps the lines for a
/// table at the end. Every second round runs the other way round, so that nobody always follows the same one.
class Turns {
public:
    enum class Kind { ratio, difference };

    struct Row {
        std::string title;
        std::string unit;
        Kind kind = Kind::ratio;
        std::string aim = {};  ///< for the reader; nothing fails
    };

    explicit Turns(int rounds) : rounds_(rounds) {}
    int rounds() const noexcept { return rounds_; }

    /// Returns the median of the ratios, or differences, within the rounds.
    double compare(const Row& row, const std::function<double()>& ours, const std::function<double()>& rival) {
        std::vector<double> a, b;
        for (int round = 0; round < rounds_; ++round) {
            if (round % 2 == 0)
                a.push_back(ours()), b.push_back(rival());
            else
                b.push_back(rival()), a.push_back(ours());
        }
        return report(row, a, b);
    }

    /// The same of figures that were measured elsewhere, round by round.
    double report(const Row& row, const std::vector<double>& a, const std::vector<double>& b) {
        std::vector<double> paired;
        for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
            paired.push_back(row.kind == Kind::ratio ? a[i] / b[i] : a[i] - b[i]);
        }
        char line[512];
        std::snprintf(line, sizeof line,
                      "%-52s %11.5g [%.5g .. %.5g]  %11.5g [%.5g .. %.5g] %s  %s %.4g [%.4g .. %.4g]%s%s",
                      row.title.c_str(), median(a), low(a), high(a), median(b), low(b), high(b), row.unit.c_str(),
                      row.kind == Kind::ratio ? "x" : "+", median(paired), low(paired), high(paired),
                      row.aim.empty() ? "" : "  aim ", row.aim.c_str());
        say(line);
        return median(paired);
    }

    /// A line that has no rival.
    void say(const std::string& line) {
        std::printf("%s\n", line.c_str());
        std::fflush(stdout);
        lines_.push_back(line);
    }

    void print_all() const {
        std::printf(
            "\n== all rows: ours, rival, and ours to the rival's within the rounds; medians of %d [lowest .. "
            "highest]\n",
            rounds_);
        for (const std::string& line : lines_) std::printf("%s\n", line.c_str());
        std::fflush(stdout);
    }

private:
    static double low(const std::vector<double>& values) {
        return values.empty() ? 0 : *std::min_element(values.begin(), values.end());
    }
    static double high(const std::vector<double>& values) {
        return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
    }

    const int rounds_;
    std::vector<std::string> lines_;
};

}  // namespace trtlab::bench
