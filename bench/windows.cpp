// What a window costs: through the ring, against the copy of its new bytes that cannot be avoided, and against what one
// writes by hand, which moves or copies the overlap for every window.

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <deque>
#include <span>
#include <thread>
#include <vector>

#include "rounds.hpp"
#include "trtlab/core/window_stream.hpp"

namespace {

using namespace trtlab::core;

/// A second of audio in windows of 25 ms every 10 ms (16 kHz, float32), or a video's frames in pairs of one that is new.
struct Cut {
    const char* name;
    std::size_t window;   // bytes
    std::size_t overlap;  // of them
};
constexpr Cut kAudio{"25 ms of audio", 1600, 960};
constexpr Cut kLarge{"1 MiB, half new", 1 << 20, 1 << 19};

std::vector<std::byte> hop_of(const Cut& cut) { return std::vector<std::byte>(cut.window - cut.overlap, std::byte{1}); }

void report(benchmark::State& state, const Cut& cut) {
    const double bytes = static_cast<double>(state.iterations() * static_cast<std::int64_t>(cut.window - cut.overlap));
    state.counters["new_bytes_ns"] =
        benchmark::Counter(bytes * 1e-9, benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

/// One hop in, one window out and given back, on one thread.
void window_stream(benchmark::State& state, const Cut& cut) {
    WindowStream stream({.window = cut.window, .overlap = cut.overlap, .windows = 8});
    const std::vector<std::byte> hop = hop_of(cut);
    (void)stream.try_write(std::vector<std::byte>(cut.overlap));
    for (auto _ : state) {
        if (stream.try_write(hop) != hop.size()) state.SkipWithError("no room");
        const Window window = stream.next();
        benchmark::DoNotOptimize(window.data());
        benchmark::ClobberMemory();
    }
    report(state, cut);
}

/// The same with the consumer on another thread.
void window_stream_two_threads(benchmark::State& state, const Cut& cut) {
    WindowStream stream({.window = cut.window, .overlap = cut.overlap, .windows = 8});
    const std::vector<std::byte> hop = hop_of(cut);
    std::jthread consumer([&] {
        for (Window& window : stream) benchmark::DoNotOptimize(window.data());
    });
    (void)stream.write(std::vector<std::byte>(cut.overlap));
    for (auto _ : state) (void)stream.write(hop);
    stream.finish();
    consumer.join();
    report(state, cut);
}

/// What nobody can do without: the new bytes, copied once, around a buffer as long as the ring.
void plain_memcpy(benchmark::State& state, const Cut& cut) {
    const std::vector<std::byte> hop = hop_of(cut);
    std::vector<std::byte> ring(WindowStream::ring_bytes({.window = cut.window, .overlap = cut.overlap, .windows = 8}));
    std::size_t at = 0;
    for (auto _ : state) {
        std::memcpy(ring.data() + at, hop.data(), hop.size());
        at = at + 2 * hop.size() <= ring.size() ? at + hop.size() : 0;
        benchmark::ClobberMemory();
    }
    report(state, cut);
}

/// One buffer of a window, whose overlap moves to the front for every window. A consumer must be done with a window before
/// the next one.
void one_vector(benchmark::State& state, const Cut& cut) {
    const std::vector<std::byte> hop = hop_of(cut);
    std::vector<std::byte> window(cut.window);
    for (auto _ : state) {
        std::memmove(window.data(), window.data() + hop.size(), cut.overlap);
        std::memcpy(window.data() + cut.overlap, hop.data(), hop.size());
        benchmark::DoNotOptimize(window.data());
        benchmark::ClobberMemory();
    }
    report(state, cut);
}

/// Elements in a std::deque, and a vector of its own for every window, as windows in flight need by hand.
void deque_and_vectors(benchmark::State& state, const Cut& cut) {
    const std::vector<std::byte> hop = hop_of(cut);
    std::deque<std::byte> elements(cut.overlap);
    for (auto _ : state) {
        elements.insert(elements.end(), hop.begin(), hop.end());
        const std::vector<std::byte> window(elements.begin(),
                                            elements.begin() + static_cast<std::ptrdiff_t>(cut.window));
        elements.erase(elements.begin(), elements.begin() + static_cast<std::ptrdiff_t>(hop.size()));
        benchmark::DoNotOptimize(window.data());
        benchmark::ClobberMemory();
    }
    report(state, cut);
}

/// Windows of next to nothing: what the lock, the lease and the books cost.
constexpr Cut kTiny{"8 bytes, 4 new", 8, 4};

void add(const char* what, void (*function)(benchmark::State&, const Cut&), const Cut& cut) {
    const std::string name = std::string(what) + ", " + cut.name;
    benchmark::RegisterBenchmark(name.c_str(), [function, cut](benchmark::State& state) { function(state, cut); })
        ->MinTime(0.05)
        ->UseRealTime();
}

}  // namespace

int main(int argc, char** argv) {
    trtlab::bench::Rounds rounds(argc, argv);
    std::vector<trtlab::bench::Comparison> comparisons;
    for (const Cut& cut : {kTiny, kAudio, kLarge}) {
        add("WindowStream", window_stream, cut);
        add("WindowStream, 2 threads", window_stream_two_threads, cut);
        add("memcpy of the new bytes", plain_memcpy, cut);
        add("one vector, overlap moved", one_vector, cut);
        add("std::deque and a vector each", deque_and_vectors, cut);
        const std::string suffix = std::string(", ") + cut.name;
        using Kind = trtlab::bench::Comparison::Kind;
        comparisons.push_back(
            {"WindowStream" + suffix, "memcpy of the new bytes" + suffix, "time_ns", Kind::difference, {}});
        for (const char* rival :
             {"memcpy of the new bytes", "one vector, overlap moved", "std::deque and a vector each"})
            comparisons.push_back({"WindowStream" + suffix, rival + suffix, "time_ns", Kind::ratio, {}});
    }
    return rounds.run(comparisons);
}
