// The best bare loop as a process that is told what to do, so that contenders in other languages can take turns with it.
//
// bare_loop PLAN, then lines on its standard input, each answered by one line:
//   best FEED[,FEED...] SECONDS   finds the fastest settings:   "best <requests/s> <settings in words>"
//   rate SECONDS                  with those settings:          "rate <requests/s>"
//   latency FEED REQUESTS         a lone request with a graph:  "latency <p50 us> <p99 us>"
// FEED: device, pinned, overlapped, pageable, staged. What goes wrong is answered "error <why>".

#include <cstdio>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

#include "reference_loop.hpp"
#include "runner_loop.hpp"
#include "setup.hpp"

namespace {

using namespace trtlab;
using bench::Feed;
using bench::ReferenceLoop;

Feed feed_named(const std::string& name) {
    for (const Feed feed : {Feed::device, Feed::pinned, Feed::overlapped, Feed::pageable, Feed::staged}) {
        if (name == bench::name_of(feed)) return feed;
    }
    throw core::InvalidArgument("no feed is called '" + name + "'");
}

std::string obey(ReferenceLoop& loop, ReferenceLoop::Settings& settings, const std::string& line) {
    std::istringstream words(line);
    std::string verb, feeds;
    double seconds = 0;
    std::size_t requests = 0;
    char text[128];
    words >> verb;
    if (verb == "best" && words >> feeds >> seconds) {
        std::vector<Feed> tried;
        std::istringstream list(feeds);
        for (std::string name; std::getline(list, name, ',');) tried.push_back(feed_named(name));
        settings = loop.best(tried, bench::Seconds(seconds), stderr, "for Python");
        const double rate = loop.throughput(settings, bench::Seconds(seconds));
        std::snprintf(text, sizeof text, "best %.6g %s", rate, settings.to_string().c_str());
    } else if (verb == "rate" && words >> seconds) {
        std::snprintf(text, sizeof text, "rate %.6g", loop.throughput(settings, bench::Seconds(seconds)));
    } else if (verb == "latency" && words >> feeds >> requests) {
        std::vector<double> samples = loop.latencies({1, true, feed_named(feeds)}, requests);
        const double middle = bench::percentile(samples, 0.5), slow = bench::percentile(samples, 0.99);
        std::snprintf(text, sizeof text, "latency %.6g %.6g", middle / 1e3, slow / 1e3);
    } else {
        throw core::InvalidArgument("not understood: " + line);
    }
    return text;
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc != 2 || std::string(argv[1]) == "--help") {
        std::fprintf(argc == 2 ? stdout : stderr, "usage: bare_loop PLAN < commands; see bench/gpu/bare_loop.cpp\n");
        return argc == 2 ? 0 : 2;
    }
    const bench::Setup setup = bench::Setup::open(argc, argv);
    const auto engine = setup.runtime->load(argv[1]);
    ReferenceLoop loop(engine, bench::static_shapes(*engine));
    ReferenceLoop::Settings settings;
    std::printf("ready\n");
    std::fflush(stdout);
    for (std::string line; std::getline(std::cin, line);) {
        try {
            std::printf("%s\n", obey(loop, settings, line).c_str());
        } catch (const core::Error& error) {
            std::printf("error %s\n", error.what());
        }
        std::fflush(stdout);
    }
    return 0;
} catch (const trtlab::core::Error& error) {
    std::fprintf(stderr, "bare_loop: %s\n", error.what());
    return 1;
}
