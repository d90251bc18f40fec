// tensorrt::Runner against the best bare loop over the same engine: throughput with inputs on the device, pinned and
// ordinary, latency of a lone request, an open loop of callers, and what the bus would allow.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "reference_loop.hpp"
#include "runner_loop.hpp"
#include "setup.hpp"
#include "trtlab/core/infer_bench.hpp"
#include "turns.hpp"

namespace {

using namespace trtlab;
using bench::Bytes;
using bench::Feed;
using bench::ReferenceLoop;
using bench::RunnerLoop;
using bench::Seconds;
using bench::Turns;

constexpr const char* kUsage =
    "usage: runner_throughput --models=DIR [--rows=check,device,pinned,pageable,latency,server,bus] "
    "[--batches=1,8,32]\n"
    "                         [--rounds=5] [--seconds=1] [--sweep=0.25] [--requests=1000] [--executions=N]\n"
    "DIR holds resnet50_b1.plan, ... (bench/gpu/models.py makes them). --seconds: of each turn; --sweep: of each "
    "setting\n"
    "that is tried to find the best; --requests: of a turn that measures latency; --executions: of the Runner "
    "(default: the\n"
    "best of 1, 2, 3, 4, 6, 8). The libraries are found as trtlab finds them: $TRTLAB_CUDART_LIBRARY, "
    "$TRTLAB_TENSORRT_LIBRARY, "
    "the\n"
    "loader's path.\n";

struct Wanted {
    std::string models;
    std::string rows = "check,device,pinned,pageable,latency,server,bus";
    std::string batches = "1,8,32";
    int rounds = 5;
    Seconds turn{1}, sweep{0.25};
    std::size_t requests = 1000;
    std::size_t executions = 0;
    bool has(std::string_view row) const {
        return ("," + rows + ",").find("," + std::string(row) + ",") != std::string::npos;
    }
};

float half_to_float(std::uint16_t half) {
    const int exponent = half >> 10 & 31;
    const auto mantissa = static_cast<float>(half & 1023);
    const float magnitude = exponent == 0    ? std::ldexp(mantissa, -24)
                            : exponent == 31 ? (mantissa == 0 ? INFINITY : NAN)
                                             : std::ldexp(1024 + mantissa, exponent - 25);
    return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

/// norm(a - b) / norm(b); NaN in either makes NaN.
double difference(core::DType dtype, const Bytes& a, const Bytes& b) {
    const auto value = [dtype](const Bytes& bytes, std::size_t i) -> double {
        if (dtype == core::DType::float16) {
            std::uint16_t half;
            std::memcpy(&half, bytes.data() + 2 * i, sizeof half);
            return half_to_float(half);
        }
        float single;
        std::memcpy(&single, bytes.data() + 4 * i, sizeof single);
        return single;
    };
    double off = 0, all = 0;
    for (std::size_t i = 0; i < b.size() / core::size_of(dtype); ++i) {
        const double delta = value(a, i) - value(b, i);
        off += delta * delta;
        all += value(b, i) * value(b, i);
    }
    return std::sqrt(off / all);
}

/// The Runner's answers are the bare loop's, for fresh inputs and into poisoned memory. False if not.
bool check(Turns& turns, const std::string& title, ReferenceLoop& bare, RunnerLoop& ours, RunnerLoop::Inputs place,
           const tensorrt::Engine& engine) {
    std::mt19937_64 random(std::random_device{}());
    const std::vector<core::Shape> shapes = bench::static_shapes(engine);
    bool identical = true;
    double worst = 0;
    for (int turn = 0; turn < 3; ++turn) {
        std::vector<Bytes> values;
        for (std::size_t i = 0; i < shapes.size(); ++i) {
            values.push_back(bench::random_bytes(engine.tensors()[i].dtype, shapes[i].elements(), random));
        }
        const std::vector<Bytes> expected = bare.answer(values, turn % 2 == 1);
        const std::vector<Bytes> got = ours.answer(values, place);
        for (std::size_t i = 0; i < expected.size(); ++i) {
            if (got.at(i) == expected[i]) continue;
            identical = false;
            const core::DType dtype = engine.tensors()[shapes.size() + i].dtype;
            const bool real = dtype == core::DType::float16 || dtype == core::DType::float32;
            const double off =
                real && got[i].size() == expected[i].size() ? difference(dtype, got[i], expected[i]) : NAN;
            worst = std::isnan(off) || off > worst ? off : worst;
        }
    }
    const bool good = identical || worst < 2e-2;
    turns.say(title + (identical ? ": bit for bit the bare loop's"
                                 : ": differs from the bare loop's by " + std::to_string(worst) + " of its norm" +
                                       (good ? "" : "  WRONG")));
    return good;
}

struct Best {
    std::unique_ptr<RunnerLoop> loop;
    std::size_t executions = 0;
};

Best best_runner(const std::shared_ptr<tensorrt::Engine>& engine, RunnerLoop::Inputs place, const Wanted& wanted,
                 const std::string& title) {
    Best best;
    double fastest = 0;
    const std::vector<std::size_t> counts =
        wanted.executions == 0 ? std::vector<std::size_t>(bench::kConcurrencies.begin(), bench::kConcurrencies.end())
                               : std::vector<std::size_t>{wanted.executions};
    for (const std::size_t executions : counts) {
        auto loop = std::make_unique<RunnerLoop>(engine, place, executions);
        const double rate = loop->throughput(wanted.sweep);
        std::printf("    %s, Runner, %zu executions %31.1f requests/s\n", title.c_str(), executions, rate);
        std::fflush(stdout);
        if (rate <= fastest) continue;
        fastest = rate;
        best = {std::move(loop), executions};
    }
    return best;
}

/// Throughput with the inputs at one place.
bool throughput(Turns& turns, const Wanted& wanted, const std::shared_ptr<tensorrt::Engine>& engine,
                ReferenceLoop& bare, std::int64_t batch, RunnerLoop::Inputs place) {
    constexpr const char* kNames[] = {"device", "pinned", "pageable"};
    const char* const name = kNames[static_cast<int>(place)];
    const std::string title = "b=" + std::to_string(batch) + " " + name + " inputs";
    const std::vector<Feed> feeds = place == RunnerLoop::Inputs::device   ? std::vector{Feed::device}
                                    : place == RunnerLoop::Inputs::pinned ? std::vector{Feed::pinned, Feed::overlapped}
                                                                          : std::vector{Feed::pageable, Feed::staged};
    const ReferenceLoop::Settings settings = bare.best(feeds, wanted.sweep, stdout, title.c_str());
    const Best ours = best_runner(engine, place, wanted, title);
    const auto scaled = [batch](double rate) { return rate * static_cast<double>(batch); };
    turns.compare(
        {title + ", " + std::to_string(ours.executions) + " executions / bare " + settings.to_string(), "images/s",
         Turns::Kind::ratio, place == RunnerLoop::Inputs::device ? ">= 0.99" : ">= 0.97"},
        [&] { return scaled(ours.loop->throughput(wanted.turn)); },
        [&] { return scaled(bare.throughput(settings, wanted.turn)); });
    std::printf("    %s\n", ours.loop->counters().c_str());
    return !wanted.has("check") || check(turns, title + ", answers", bare, *ours.loop, place, *engine);
}

/// One request at a time, the median and the slowest of a hundred.
void latency(Turns& turns, const Wanted& wanted, const std::shared_ptr<tensorrt::Engine>& engine, ReferenceLoop& bare,
             std::int64_t batch, RunnerLoop::Inputs place, Feed feed) {
    RunnerLoop loop(engine, place, 2);
    const ReferenceLoop::Settings settings{1, true, feed};
    std::vector<double> ours[2], rival[2];
    const auto measure = [](std::vector<double> samples, std::vector<double>* into) {
        into[0].push_back(bench::percentile(samples, 0.5) / 1e3);
        into[1].push_back(bench::percentile(samples, 0.99) / 1e3);
    };
    (void)loop.latencies(wanted.requests / 4);
    for (int round = 0; round < turns.rounds(); ++round) {
        if (round % 2 == 0) measure(loop.latencies(wanted.requests), ours);
        measure(bare.latencies(settings, wanted.requests), rival);
        if (round % 2 == 1) measure(loop.latencies(wanted.requests), ours);
    }
    const std::string title = "b=" + std::to_string(batch) + " latency, " + bench::name_of(feed) + " inputs, ";
    turns.report({title + "p50 / bare graph + sync", "us", Turns::Kind::difference, "<= +5 us"}, ours[0], rival[0]);
    turns.report({title + "p99 / bare graph + sync", "us", Turns::Kind::difference, {}}, ours[1], rival[1]);
    std::printf("    %s\n", loop.counters().c_str());
}

/// Callers who know nothing of each other, one image each: the highest rate at which 99 of 100 wait no more than 15 ms.
void server(Turns& turns, const Wanted& wanted, const std::shared_ptr<tensorrt::Engine>& engine) {
    constexpr auto kLimit = std::chrono::milliseconds(15);
    const Best ours = best_runner(engine, RunnerLoop::Inputs::pinned, wanted, "server");
    const core::InferBench load(ours.loop->runner(), ours.loop->inputs());
    const auto at = [&](double rate, Seconds time) {
        core::InferBench::Options options;
        options.load = core::InferBench::Load::poisson;
        options.concurrency = 512;
        options.rate = rate;
        options.warm_up = std::chrono::milliseconds(300);
        options.duration = std::chrono::duration_cast<std::chrono::nanoseconds>(time);
        options.seed = std::random_device{}();
        return load.run(options);
    };
    const auto holds = [&](const core::InferBench::Report& report) {
        return report.failures == 0 && report.unfinished == 0 &&
               report.latency.percentile(99) <= static_cast<std::uint64_t>(std::chrono::nanoseconds(kLimit).count());
    };
    const double offline = ours.loop->throughput(wanted.turn);
    double low = 0, high = 1.05 * offline;
    for (int step = 0; step < 7; ++step) {
        const double rate = step == 0 ? 0.9 * offline : (low + high) / 2;
        const auto report = at(rate, 2 * wanted.turn);
        const bool held = holds(report);
        std::printf("    server at %.1f/s: p50 %.3f ms, p99 %.3f ms, issued late p99 %.3f ms, %s\n", rate,
                    static_cast<double>(report.latency.percentile(50)) / 1e6,
                    static_cast<double>(report.latency.percentile(99)) / 1e6,
                    static_cast<double>(report.issue_delay.percentile(99)) / 1e6, held ? "held" : "not held");
        std::fflush(stdout);
        (held ? low : high) = rate;
    }
    std::vector<double> rates, offlines;
    int held = 0;
    for (int round = 0; round < turns.rounds(); ++round) {
        offlines.push_back(ours.loop->throughput(wanted.turn));
        const auto report = at(low, 2 * wanted.turn);
        held += holds(report);
        rates.push_back(report.inferences_per_second);
    }
    turns.report({"b=1 Server (open loop, Poisson, no batcher, pinned), p99 <= 15 ms held in " + std::to_string(held) +
                      " of " + std::to_string(turns.rounds()) + " / own offline",
                  "images/s", Turns::Kind::ratio, ">= 0.90"},
                 rates, offlines);
}

Wanted parse(int argc, char** argv) {
    Wanted wanted;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        const std::string value(argument.substr(std::min(argument.size(), argument.find('=') + 1)));
        if (argument.starts_with("--models="))
            wanted.models = value;
        else if (argument.starts_with("--rows="))
            wanted.rows = value;
        else if (argument.starts_with("--batches="))
            wanted.batches = value;
        else if (argument.starts_with("--rounds="))
            wanted.rounds = std::max(1, std::atoi(value.c_str()));
        else if (argument.starts_with("--seconds="))
            wanted.turn = Seconds(std::atof(value.c_str()));
        else if (argument.starts_with("--sweep="))
            wanted.sweep = Seconds(std::atof(value.c_str()));
        else if (argument.starts_with("--requests="))
            wanted.requests = static_cast<std::size_t>(std::atoll(value.c_str()));
        else if (argument.starts_with("--executions="))
            wanted.executions = static_cast<std::size_t>(std::atoll(value.c_str()));
        else {
            const bool asked = argument == "--help" || argument == "-h";
            std::fprintf(asked ? stdout : stderr, "%s%s",
                         asked ? "" : ("unknown: " + std::string(argument) + "\n").c_str(), kUsage);
            std::exit(asked ? 0 : 2);
        }
    }
    if (wanted.models.empty()) {
        std::fprintf(stderr, "--models is missing\n%s", kUsage);
        std::exit(2);
    }
    return wanted;
}

}  // namespace

int main(int argc, char** argv) try {
    const Wanted wanted = parse(argc, argv);
    const bench::Setup setup = bench::Setup::open(argc, argv);
    Turns turns(wanted.rounds);
    bool right = true;
    std::istringstream list(wanted.batches);
    for (std::string word; std::getline(list, word, ',');) {
        const std::int64_t batch = std::atoll(word.c_str());
        const auto engine = setup.runtime->load(wanted.models + "/resnet50_b" + word + ".plan");
        ReferenceLoop bare(engine, bench::static_shapes(*engine));
        std::printf("\n-- resnet50_b%s.plan: weights %.1f MiB, scratch %.1f MiB\n", word.c_str(),
                    static_cast<double>(engine->weights_bytes()) / (1 << 20),
                    static_cast<double>(engine->activation_bytes()) / (1 << 20));
        using Inputs = RunnerLoop::Inputs;
        if (wanted.has("device")) right &= throughput(turns, wanted, engine, bare, batch, Inputs::device);
        if (wanted.has("pinned")) right &= throughput(turns, wanted, engine, bare, batch, Inputs::pinned);
        if (wanted.has("pageable")) right &= throughput(turns, wanted, engine, bare, batch, Inputs::pageable);
        if (wanted.has("latency") && batch == 1) {
            latency(turns, wanted, engine, bare, batch, Inputs::device, Feed::device);
            latency(turns, wanted, engine, bare, batch, Inputs::pinned, Feed::pinned);
        }
        if (wanted.has("server") && batch == 1) server(turns, wanted, engine);
        if (wanted.has("bus")) {
            const double bytes = bench::bus_bytes_per_second(setup.device, bare.input_bytes(), wanted.turn);
            char line[256];
            std::snprintf(line, sizeof line,
                          "b=%s bus: %.2f GB/s from pinned memory in copies of %zu bytes: no more than %.1f images/s",
                          word.c_str(), bytes / 1e9, bare.input_bytes(),
                          bytes / static_cast<double>(bare.input_bytes()) * static_cast<double>(batch));
            turns.say(line);
        }
    }
    turns.print_all();
    std::printf("load after %s\n", bench::first_line("/proc/loadavg").c_str());
    return right ? 0 : 1;
} catch (const trtlab::core::Error& error) {
    std::fprintf(stderr, "runner_throughput: %s\n", error.what());
    return 1;
}
