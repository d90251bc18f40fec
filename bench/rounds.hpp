#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "machine.hpp"

namespace trtlab::bench {

/// One line of the result: `ours` against `rival`, by one metric that both report.
struct Comparison {
    enum class Kind { ratio, difference };
    std::string ours;
    std::string rival;
    std::string metric;  ///< "time_ns", or the name of a counter
    Kind kind = Kind::ratio;
    std::string aim = {};  ///< for the reader; nothing fails
};

/// Runs all registered benchmarks one after another, and that again and again, so that whatever else the machine does
/// hits ours and the rival alike; what is reported are medians, and the median of the ratios within the rounds.
class Rounds final : public benchmark::BenchmarkReporter {
public:
    /// Reads `--rounds=N` and `--json` and leaves the rest to Google Benchmark (`--benchmark_filter=...`).
    Rounds(int& argc, char** argv, int rounds = 7) : rounds_(rounds) {
        for (int i = 0; i < argc; ++i) command_ += (i == 0 ? "" : " ") + std::string(argv[i]);
        int kept = 1;
        for (int i = 1; i < argc; ++i) {
            const std::string_view argument = argv[i];
            if (argument == "--json") {
                json_ = true;
            } else if (argument.starts_with("--rounds=")) {
                rounds_ = std::max(1, std::atoi(argument.substr(9).data()));
            } else {
                argv[kept++] = argv[i];
            }
        }
        argc = kept;
        benchmark::Initialize(&argc, argv);
        describe_machine();
    }

    /// Another line of the header: a library's version, a model's file.
    void describe(std::string what, std::string value) { environment_.emplace_back(std::move(what), std::move(value)); }

    int run(const std::vector<Comparison>& comparisons) {
        std::FILE* const header = json_ ? stderr : stdout;
        for (const auto& [what, value] : environment_) std::fprintf(header, "%-10s %s\n", what.c_str(), value.c_str());
        std::fflush(header);
        for (int round = 0; round < rounds_; ++round) {
            std::fprintf(stderr, "round %d of %d\r", round + 1, rounds_);
            if (benchmark::RunSpecifiedBenchmarks(this) == 0) {
                std::fprintf(stderr, "no benchmark matches\n");
                return 1;
            }
        }
        describe("load after", first_line("/proc/loadavg"));
        json_ ? print_json(comparisons) : print_tables(comparisons);
        return failed_ ? 1 : 0;
    }

private:
    using Series = std::map<std::string, std::vector<double>>;  // metric -> one value a round

    bool ReportContext(const Context&) override { return true; }

    void ReportRuns(const std::vector<Run>& runs) override {
        for (const Run& run : runs) {
            const std::string& name = run.run_name.function_name;
            if (run.error_occurred) {
                std::fprintf(stderr, "%s: %s\n", name.c_str(), run.error_message.c_str());
                failed_ = true;
                continue;
            }
            if (!results_.contains(name)) order_.push_back(name);
            Series& series = results_[name];
            series["time_ns"].push_back(run.real_accumulated_time / static_cast<double>(run.iterations) * 1e9);
            for (const auto& [metric, counter] : run.counters) series[metric].push_back(counter.value);
        }
    }

    void describe_machine() {
        describe("command", command_);
        for (auto& line : machine()) environment_.push_back(std::move(line));
    }

    struct Result {
        double ours, rival, middle, low, high;
    };

    /// Compares round by round. False if one of the two was not measured.
    bool compare(const Comparison& comparison, Result& result) const {
        const auto ours = results_.find(comparison.ours);
        const auto rival = results_.find(comparison.rival);
        if (ours == results_.end() || rival == results_.end()) return false;
        const auto a = ours->second.find(comparison.metric);
        const auto b = rival->second.find(comparison.metric);
        if (a == ours->second.end() || b == rival->second.end()) return false;
        std::vector<double> paired;
        for (std::size_t i = 0; i < std::min(a->second.size(), b->second.size()); ++i) {
            paired.push_back(comparison.kind == Comparison::Kind::ratio ? a->second[i] / b->second[i]
                                                                        : a->second[i] - b->second[i]);
        }
        if (paired.empty()) return false;
        result = {median(a->second), median(b->second), median(paired), *std::min_element(paired.begin(), paired.end()),
                  *std::max_element(paired.begin(), paired.end())};
        return true;
    }

    void print_tables(const std::vector<Comparison>& comparisons) const {
        std::printf("load after %s\n\n%-44s %-16s %14s %14s %14s\n", environment_.back().second.c_str(),
                    "median of the rounds", "metric", "median", "lowest", "highest");
        for (const std::string& name : order_) {
            for (const auto& [metric, values] : results_.at(name)) {
                const auto [low, high] = std::minmax_element(values.begin(), values.end());
                std::printf("%-44s %-16s %14.6g %14.6g %14.6g\n", name.c_str(), metric.c_str(), median(values), *low,
                            *high);
            }
        }
        if (!comparisons.empty()) std::printf("\npaired within the %d rounds: median [lowest .. highest]\n", rounds_);
        for (const Comparison& comparison : comparisons) {
            Result result{};
            if (!compare(comparison, result)) continue;
            const bool ratio = comparison.kind == Comparison::Kind::ratio;
            std::printf("%s %s %s, %s: %.4g [%.4g .. %.4g]%s%s\n", comparison.ours.c_str(), ratio ? "/" : "-",
                        comparison.rival.c_str(), comparison.metric.c_str(), result.middle, result.low, result.high,
                        comparison.aim.empty() ? "" : "   aim ", comparison.aim.c_str());
        }
    }

    void print_json(const std::vector<Comparison>& comparisons) const {
        std::printf("{\n  \"environment\": {");
        const char* separator = "\n";
        for (const auto& [what, value] : environment_) {
            std::printf("%s    %s: %s", separator, quoted(what).c_str(), quoted(value).c_str());
            separator = ",\n";
        }
        std::printf("\n  },\n  \"results\": [");
        separator = "\n";
        for (const std::string& name : order_) {
            for (const auto& [metric, values] : results_.at(name)) {
                std::printf("%s    {\"name\": %s, \"metric\": %s, \"median\": %.9g, \"rounds\": [", separator,
                            quoted(name).c_str(), quoted(metric).c_str(), median(values));
                for (std::size_t i = 0; i < values.size(); ++i) std::printf("%s%.9g", i == 0 ? "" : ", ", values[i]);
                std::printf("]}");
                separator = ",\n";
            }
        }
        std::printf("\n  ],\n  \"comparisons\": [");
        separator = "\n";
        for (const Comparison& comparison : comparisons) {
            Result result{};
            if (!compare(comparison, result)) continue;
            std::printf(
                "%s    {\"ours\": %s, \"rival\": %s, \"metric\": %s, \"kind\": \"%s\", \"median\": %.9g, \"lowest\": "
                "%.9g, "
                "\"highest\": %.9g, \"aim\": %s}",
                separator, quoted(comparison.ours).c_str(), quoted(comparison.rival).c_str(),
                quoted(comparison.metric).c_str(), comparison.kind == Comparison::Kind::ratio ? "ratio" : "difference",
                result.middle, result.low, result.high, quoted(comparison.aim).c_str());
            separator = ",\n";
        }
        std::printf("\n  ]\n}\n");
    }

    int rounds_;
    bool json_ = false;
    bool failed_ = false;
    std::string command_;
    std::vector<std::pair<std::string, std::string>> environment_;
    std::vector<std::string> order_;
    std::map<std::string, Series> results_;
};

}  // namespace trtlab::bench
