// Pools of device and pinned memory against CUDA's own, on traces as RAPIDS' memory manager measures itself with:
//
//   random         one stream; with even odds a block of a uniformly drawn size comes, or a random one goes; at most --usage
//   multi-stream   the same over 1 to 8 streams; each block is filled by its stream before it goes
//
// For each: the time of a call (a block taken or given back, nothing else), and what the device had to give at the most, to what was
// live at the most. Contenders replay the same trace, in turns.

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/best_fit_memory.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/size_class_memory.hpp"
#include "trtlab/core/synchronized_memory.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/stream_pool.hpp"
#include "turns.hpp"

namespace {

using namespace trtlab;
using Clock = std::chrono::steady_clock;

constexpr const char* kUsage =
    "usage: memory_pools [--rounds=5] [--steps=20000] [--usage=4096] [--largest=64] [--slab=256]\n"
    "--steps: calls of a trace; --usage, --largest, --slab: MiB that are live at the most, of the largest block, and "
    "of what "
    "our\npools take from the device at a time. The library is found as trtlab finds it: $TRTLAB_CUDART_LIBRARY, the "
    "loader's path.\n";

struct Wanted {
    int rounds = 5;
    std::size_t steps = 20'000, usage_mib = 4096, largest_mib = 64, slab_mib = 256;
};

/// What is taken and given back, in which stream. Drawn once, so that everybody does the same.
struct Trace {
    struct Step {
        std::size_t block;  // its number
        std::size_t size;   // 0: it goes
        std::size_t stream;
    };
    std::vector<Step> steps;
    std::size_t blocks = 0, peak_live = 0;

    Trace(const Wanted& wanted, std::size_t streams) {
        std::mt19937_64 random(streams);
        struct Live {
            std::size_t block, size, stream;
        };
        std::vector<Live> live;
        std::size_t bytes = 0;
        const auto give = [&] {
            std::swap(live[random() % live.size()], live.back());
            steps.push_back({live.back().block, 0, live.back().stream});
            bytes -= live.back().size;
            live.pop_back();
        };
        while (steps.size() < wanted.steps) {
            const std::size_t size = 1 + random() % (wanted.largest_mib << 20), stream = random() % streams;
            if (random() % 2 == 0 && bytes + size <= wanted.usage_mib << 20) {
                steps.push_back({blocks, size, stream});
                live.push_back({blocks++, size, stream});
                bytes += size;
                peak_live = std::max(peak_live, bytes);
            } else if (!live.empty()) {
                give();
            }
        }
        while (!live.empty()) give();
    }
};

using Memories = std::vector<std::shared_ptr<core::MemoryResource>>;  // one a stream

/// Nanoseconds a call.
double replay(const Trace& trace, const Memories& memories) {
    struct Block {
        void* data;
        std::size_t size;
    };
    std::vector<Block> blocks(trace.blocks);
    const auto begin = Clock::now();
    for (const Trace::Step& step : trace.steps) {
        Block& block = blocks[step.block];
        if (step.size != 0) {
            block = {memories[step.stream]->allocate(step.size), step.size};
        } else {
            memories[step.stream]->deallocate(block.data, block.size);
        }
    }
    return std::chrono::duration<double, std::nano>(Clock::now() - begin).count() /
           static_cast<double>(trace.steps.size());
}

/// The same with work: each block is filled by its stream. Milliseconds until the device is done.
double replay_with_work(const Trace& trace, const Memories& memories, const std::vector<cuda::Stream>& streams,
                        const cuda::Device& device) {
    std::vector<core::BufferView> blocks(trace.blocks);
    const auto begin = Clock::now();
    for (const Trace::Step& step : trace.steps) {
        core::BufferView& block = blocks[step.block];
        if (step.size != 0) {
            block = {memories[step.stream]->allocate(step.size), step.size, device.core_device()};
            streams[step.stream].fill(block, 1);
        } else {
            memories[step.stream]->deallocate(block.data, block.size_bytes);
        }
    }
    device.synchronize();
    return std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
}

/// The most that the device had to give to the trace, as the driver tells. Looks after each block that comes, so the time of
/// this one says nothing.
std::size_t peak_reserved(const Trace& trace, const Memories& memories, const cuda::Device& device,
                          std::size_t free_before) {
    std::vector<core::BufferView> blocks(trace.blocks);
    std::size_t peak = 0;
    for (const Trace::Step& step : trace.steps) {
        core::BufferView& block = blocks[step.block];
        if (step.size != 0) {
            block = {memories[step.stream]->allocate(step.size), step.size, {}};
            const std::size_t free_now = device.memory().free_bytes;
            peak = std::max(peak, free_before - std::min(free_before, free_now));
        } else {
            memories[step.stream]->deallocate(block.data, block.size_bytes);
        }
    }
    return peak;
}

class Pools {
public:
    Pools(const Wanted& wanted, cuda::Device device)
        : wanted_(wanted), device_(std::move(device)), turns_(wanted.rounds) {}

    void device_rows(std::size_t count) {
        std::vector<cuda::Stream> streams;
        for (std::size_t i = 0; i < count; ++i) streams.emplace_back(device_);
        const Trace trace(wanted_, count);
        const std::string of = std::to_string(count) + (count == 1 ? " stream" : " streams");
        const std::string ours = "StreamPool", rival = "cudaMallocAsync";

        device_.synchronize();
        const std::size_t free_before = device_.memory().free_bytes;
        std::size_t reserved = 0;
        {
            Memories pooled = in_pool(streams);
            reserved = peak_reserved(trace, pooled, device_, free_before);
            turns_.say(row("device, " + of + ", " + ours, reserved, trace.peak_live));
        }
        device_.synchronize();
        const Memories async = of_streams(streams);
        turns_.say(row("device, " + of + ", " + rival,
                       peak_reserved(trace, async, device_, device_.memory().free_bytes), trace.peak_live));
        device_.synchronize();

        const Memories pooled = in_pool(streams);
        (void)replay(trace, pooled);  // the slabs are there
        (void)replay(trace, async);
        turns_.compare(
            {"device, " + of + ", a call: " + ours + ", " + rival, "ns", bench::Turns::Kind::ratio,
             "<= 100 ns, <= 0.33"},
            [&] { return timed(trace, pooled); }, [&] { return timed(trace, async); });
        turns_.compare(
            {"device, " + of + ", filled: " + ours + ", " + rival, "ms"},
            [&] { return replay_with_work(trace, pooled, streams, device_); },
            [&] { return replay_with_work(trace, async, streams, device_); });
    }

    void one_stream_rows() {
        const cuda::Stream stream(device_);
        const Trace trace(wanted_, 1);
        const Memories best_fit{std::make_shared<core::SynchronizedMemory>(
            std::make_shared<core::BestFitMemory>(std::make_shared<cuda::DeviceMemory>(device_), slabs()))};
        const Memories async{std::make_shared<cuda::StreamOrderedMemory>(stream)};
        (void)replay(trace, best_fit);
        (void)replay(trace, async);
        turns_.compare(
            {"device, random, a call: locked BestFitMemory, cudaMallocAsync", "ns", bench::Turns::Kind::ratio,
             "<= 100 ns, <= 0.33"},
            [&] { return timed(trace, best_fit); }, [&] { return timed(trace, async); });
    }

    /// Pinned memory has no pool of CUDA's: the rival is cudaHostAlloc itself, on fewer and smaller blocks, as it pins pages.
    void pinned_rows() {
        Wanted less = wanted_;
        less.steps = std::min<std::size_t>(less.steps, 400);
        less.usage_mib = std::min<std::size_t>(less.usage_mib, 256);
        less.largest_mib = std::min<std::size_t>(less.largest_mib, 4);
        const Trace trace(less, 1);
        const auto pinned = std::make_shared<cuda::PinnedMemory>(device_);
        const auto best_fit = std::make_shared<core::BestFitMemory>(
            pinned, core::BlockArena::Options{.first_block_bytes = std::size_t{16} << 20, .growth = 1.5});
        const Memories pooled{std::make_shared<core::SizeClassMemory>(best_fit)};
        const Memories bare{pinned};
        (void)replay(trace, pooled);
        const core::BestFitMemory::Stats stats = best_fit->stats();
        turns_.say(row("pinned, SizeClassMemory over BestFitMemory", stats.bytes, trace.peak_live) +
                   " (what is kept at the end)");
        turns_.compare(
            {"pinned, a call: SizeClass over BestFit, cudaHostAlloc", "ns", bench::Turns::Kind::ratio, "<= 100 ns"},
            [&] { return replay(trace, pooled); }, [&] { return replay(trace, bare); });
    }

    void print_all() const { turns_.print_all(); }

private:
    core::BlockArena::Options slabs() const {
        const std::size_t bytes = wanted_.slab_mib << 20;
        return {.first_block_bytes = bytes, .growth = 1, .max_block_bytes = bytes, .max_cached_bytes = SIZE_MAX};
    }

    Memories in_pool(const std::vector<cuda::Stream>& streams) const {
        const auto pool = cuda::StreamPool::create(
            device_, std::make_shared<core::BlockArena>(std::make_shared<cuda::DeviceMemory>(device_), slabs()));
        Memories memories;
        for (const cuda::Stream& stream : streams) memories.push_back(pool->on(stream));
        return memories;
    }

    static Memories of_streams(const std::vector<cuda::Stream>& streams) {
        Memories memories;
        for (const cuda::Stream& stream : streams)
            memories.push_back(std::make_shared<cuda::StreamOrderedMemory>(stream));
        return memories;
    }

    /// What a turn left to the device is over before the next begins.
    double timed(const Trace& trace, const Memories& memories) const {
        const double ns = replay(trace, memories);
        device_.synchronize();
        return ns;
    }

    static std::string row(const std::string& title, std::size_t reserved, std::size_t live) {
        char line[256];
        std::snprintf(line, sizeof line, "%-52s peak reserved %zu MiB, peak live %zu MiB, ratio %.3f", title.c_str(),
                      reserved >> 20, live >> 20, static_cast<double>(reserved) / static_cast<double>(live));
        return line;
    }

    const Wanted wanted_;
    const cuda::Device device_;
    bench::Turns turns_;
};

Wanted read(int argc, char** argv) {
    Wanted wanted;
    for (int i = 1; i < argc; ++i) {
        const std::string_view argument = argv[i];
        const std::size_t equals = argument.find('=');
        const std::string_view name = argument.substr(0, equals);
        const long value = equals == argument.npos ? 0 : std::atol(argument.substr(equals + 1).data());
        const auto number = static_cast<std::size_t>(value);
        if (value <= 0) throw core::InvalidArgument("not understood: " + std::string(argument));
        if (name == "--rounds") {
            wanted.rounds = static_cast<int>(value);
        } else if (name == "--steps") {
            wanted.steps = number;
        } else if (name == "--usage") {
            wanted.usage_mib = number;
        } else if (name == "--largest") {
            wanted.largest_mib = number;
        } else if (name == "--slab") {
            wanted.slab_mib = number;
        } else {
            throw core::InvalidArgument("not understood: " + std::string(argument));
        }
    }
    if (wanted.largest_mib > wanted.usage_mib) throw core::InvalidArgument("--largest is more than --usage");
    return wanted;
}

}  // namespace

int main(int argc, char** argv) try {
    const Wanted wanted = read(argc, argv);
    const auto library = cuda::Library::open();
    const cuda::Device device(library, 0);
    device.make_current();
    for (const auto& [what, value] : bench::machine()) std::printf("%-10s %s\n", what.c_str(), value.c_str());
    std::printf("%-10s %s, CUDA %d, %s\n", "GPU", device.properties().name.c_str(), library->version(),
                library->path().c_str());
    Pools pools(wanted, device);
    pools.one_stream_rows();
    for (const std::size_t streams : {1, 2, 4, 8}) pools.device_rows(streams);
    pools.pinned_rows();
    pools.print_all();
    return 0;
} catch (const trtlab::core::Error& error) {
    std::fprintf(stderr, "memory_pools: %s\n%s", error.what(), kUsage);
    return 1;
}
