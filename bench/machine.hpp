#pragma once

#include <sched.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What every report of a benchmark says about where it was made, and how its figures are summed up.

namespace trtlab::bench {

inline double median(std::vector<double> values) {
    if (values.empty()) return 0;
    std::sort(values.begin(), values.end());
    const std::size_t middle = values.size() / 2;
    return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

/// The value below which `share` of the samples lie. Sorts.
inline double percentile(std::vector<double>& samples, double share) {
    if (samples.empty()) return 0;
    std::sort(samples.begin(), samples.end());
    return samples[std::min(samples.size() - 1, static_cast<std::size_t>(share * static_cast<double>(samples.size())))];
}

inline std::string first_line(const char* path) {
    std::ifstream file(path);
    std::string line;
    std::getline(file, line);
    return line;
}

inline std::string cpu_model() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    }
    return "unknown CPU";
}

inline int usable_cpus() {
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : -1;
}

/// TRTLAB_COMMIT where it is set, as on a machine that has the files and not their history.
inline std::string commit() {
    if (const char* given = std::getenv("TRTLAB_COMMIT"); given != nullptr && *given != '\0') return given;
    std::string text;
    if (std::FILE* pipe =
            popen("git -C '" TRTLAB_SOURCE_DIR "' describe --always --dirty --abbrev=12 2>/dev/null", "r")) {
        char buffer[128];
        text.assign(buffer, std::fread(buffer, 1, sizeof buffer, pipe));
        pclose(pipe);
    }
    while (!text.empty() && text.back() == '\n') text.pop_back();
    return text.empty() ? "unknown" : text;
}

/// Lines of a report's header.
inline std::vector<std::pair<std::string, std::string>> machine() {
    std::vector<std::pair<std::string, std::string>> lines;
    lines.emplace_back("machine", cpu_model() + ", " + std::to_string(usable_cpus()) + " CPUs usable of " +
                                      std::to_string(sysconf(_SC_NPROCESSORS_ONLN)));
    utsname system{};
    if (uname(&system) == 0) {
        lines.emplace_back("system", std::string(system.sysname) + " " + system.release + " " + system.machine);
    }
    lines.emplace_back("trtlab", TRTLAB_VERSION ", commit " + commit() + ", " TRTLAB_BUILD_TYPE ", g++ " __VERSION__);
    lines.emplace_back("load", first_line("/proc/loadavg"));
    return lines;
}

inline std::string quoted(std::string_view text) {
    std::string result = "\"";
    for (const char c : text) {
        if (c == '"' || c == '\\') result += '\\';
        result += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
    return result + '"';
}

}  // namespace trtlab::bench
