// What a block costs, taken and given back: trtlab's suballocators beside malloc, jemalloc, mimalloc, foonathan-memory and
// std::pmr. Each block is written to, as whoever takes one does. Sizes are 64 to 4096 bytes, every one as likely.
//
//   churn           512 blocks live; in turn one at random goes and one of another size comes
//   back at once    each block goes before the next comes: what a thread's own cache alone costs
//   cross-thread    one thread takes, another gives back
//   request scratch 10 blocks of 12 to 100 MiB, given back out of order, untouched

#include <dlfcn.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <memory_resource>
#include <random>
#include <string>
#include <thread>
#include <vector>

#if TRTLAB_FOONATHAN_MEMORY
#include <foonathan/memory/memory_pool_collection.hpp>
#include <foonathan/memory/threading.hpp>
#endif

#include "rounds.hpp"
#include "trtlab/core/best_fit_memory.hpp"
#include "trtlab/core/ring_memory.hpp"
#include "trtlab/core/scratch_memory.hpp"
#include "trtlab/core/size_class_memory.hpp"
#include "trtlab/core/synchronized_memory.hpp"

namespace {

using namespace trtlab::core;

constexpr std::size_t kAlignment = 16;  // malloc's

/// A malloc of another library's, found by its own name, so that it replaces nobody's.
struct Library {
    void* (*take)(std::size_t) = nullptr;
    void (*give)(void*) = nullptr;
    std::string path;

    Library(const char* file, const char* take_name, const char* give_name) {
        // Deep binding: what it calls is its own, and not the program's malloc.
        void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
        if (library == nullptr) {
            path = std::string("not measured: ") + dlerror();
            return;
        }
        take = reinterpret_cast<void* (*)(std::size_t)>(dlsym(library, take_name));
        give = reinterpret_cast<void (*)(void*)>(dlsym(library, give_name));
        Dl_info info{};
        if (dladdr(reinterpret_cast<void*>(take), &info) != 0) path = info.dli_fname;
    }
};

// The contenders: `take` and `give`, of one object that all threads share.

struct Malloc {
    static void* take(std::size_t size) { return std::malloc(size); }
    static void give(void* block, std::size_t) { std::free(block); }
};

struct Jemalloc {
    static Library& library() {
        static Library found("libjemalloc.so.2", "malloc", "free");
        return found;
    }
    static inline Library* const entry = &library();
    static void* take(std::size_t size) { return entry->take(size); }
    static void give(void* block, std::size_t) { entry->give(block); }
};

struct Mimalloc {
    static Library& library() {
        static Library found("libmimalloc.so.2", "mi_malloc", "mi_free");
        return found;
    }
    static inline Library* const entry = &library();
    static void* take(std::size_t size) { return entry->take(size); }
    static void give(void* block, std::size_t) { entry->give(block); }
};

/// Through the base class, as whoever takes any resource calls it.
template <class Make>
struct Resource {
    static inline const std::shared_ptr<MemoryResource> object = Make::make();
    static inline MemoryResource* volatile shown = object.get();  // so that the compiler cannot know what it is
    static inline MemoryResource* const base = shown;
    static void* take(std::size_t size) { return base->allocate(size, kAlignment); }
    static void give(void* block, std::size_t size) { base->deallocate(block, size, kAlignment); }
};

struct MakeSizeClasses {
    static auto make() { return std::make_shared<SizeClassMemory>(std::make_shared<HostMemory>()); }
};
using SizeClasses = Resource<MakeSizeClasses>;

struct MakeLockedBestFit {
    static auto make() {
        return std::make_shared<SynchronizedMemory>(
            std::make_shared<BestFitMemory>(std::make_shared<BlockArena>(std::make_shared<HostMemory>()),
                                            BestFitMemory::Options{.granule_bytes = 16, .min_split_bytes = 64}));
    }
};
using LockedBestFit = Resource<MakeLockedBestFit>;

template <class Pool>
struct Pmr {
    static inline Pool object{};
    static inline std::pmr::memory_resource* volatile shown = &object;
    static inline std::pmr::memory_resource* const base = shown;
    static void* take(std::size_t size) { return base->allocate(size, kAlignment); }
    static void give(void* block, std::size_t size) { base->deallocate(block, size, kAlignment); }
};
using PmrSynchronized = Pmr<std::pmr::synchronized_pool_resource>;
using PmrUnsynchronized = Pmr<std::pmr::unsynchronized_pool_resource>;

#if TRTLAB_FOONATHAN_MEMORY
struct Foonathan {
    using Pools =
        foonathan::memory::memory_pool_collection<foonathan::memory::node_pool, foonathan::memory::log2_buckets>;
    static inline Pools object{4096, std::size_t{16} << 20};
    static inline std::mutex mutex;
    static void* take(std::size_t size) {
        const std::lock_guard lock(mutex);
        return object.allocate_node(size);
    }
    static void give(void* block, std::size_t size) {
        const std::lock_guard lock(mutex);
        object.deallocate_node(block, size);
    }
};
#endif

/// Drawn beforehand: drawing them costs as much as a block does.
struct Draw {
    std::uint16_t slot, size;
};
constexpr std::size_t kLive = 512;
const std::vector<Draw>& draws() {
    static const std::vector<Draw> drawn = [] {
        std::mt19937 random(1);
        std::vector<Draw> made(1 << 14);
        for (Draw& draw : made) {
            draw.slot = static_cast<std::uint16_t>(random() % kLive);
            draw.size = static_cast<std::uint16_t>(64 + random() % (4096 - 64 + 1));
        }
        return made;
    }();
    return drawn;
}

template <class A>
void* take_and_write(std::size_t size) {
    void* const block = A::take(size);
    *static_cast<std::size_t*>(block) = size;
    benchmark::ClobberMemory();
    return block;
}

template <class A>
void churn(benchmark::State& state) {
    struct Slot {
        void* block = nullptr;
        std::size_t size = 0;
    };
    std::vector<Slot> slots(kLive);
    const std::vector<Draw>& drawn = draws();
    const auto step = [&](const Draw& draw) {
        Slot& slot = slots[draw.slot];
        if (slot.block != nullptr) A::give(slot.block, slot.size);
        slot = {take_and_write<A>(draw.size), draw.size};
    };
    for (const Draw& draw : drawn) step(draw);
    std::size_t at = static_cast<std::size_t>(state.thread_index()) * 1000;
    for (auto _ : state) step(drawn[at++ % drawn.size()]);
    for (const Slot& slot : slots) {
        if (slot.block != nullptr) A::give(slot.block, slot.size);
    }
}

template <class A>
void back_at_once(benchmark::State& state) {
    const std::vector<Draw>& drawn = draws();
    std::size_t at = 0;
    for (auto _ : state) {
        const std::size_t size = drawn[at++ % drawn.size()].size;
        A::give(take_and_write<A>(size), size);
    }
}

/// Two threads: the first takes, the second gives back. They tell each other of 32 blocks at a time.
template <class A>
void cross_thread(benchmark::State& state) {
    constexpr std::size_t kRing = 4096, kTold = 32;
    static std::array<void*, kRing> ring;
    alignas(64) static std::atomic<std::size_t> taken;
    alignas(64) static std::atomic<std::size_t> given;
    const std::vector<Draw>& drawn = draws();
    if (state.thread_index() == 0) taken = given = 0;
    std::size_t at = 0, other = 0;
    const auto wait_for = [&](const std::atomic<std::size_t>& there, auto enough) {
        while (!enough(other)) {
            std::this_thread::yield();
            other = there.load(std::memory_order_acquire);  // pairs with the other's store
        }
    };
    if (state.thread_index() == 0) {
        for (auto _ : state) {
            wait_for(given, [&](std::size_t back) { return at - back < kRing; });
            ring[at % kRing] = take_and_write<A>(drawn[at % drawn.size()].size);
            if (++at % kTold == 0) taken.store(at, std::memory_order_release);  // pairs with the other's load
        }
        taken.store(at, std::memory_order_release);
    } else {
        for (auto _ : state) {
            wait_for(taken, [&](std::size_t there) { return at < there; });
            A::give(ring[at % kRing], drawn[at % drawn.size()].size);
            if (++at % kTold == 0) given.store(at, std::memory_order_release);
        }
        given.store(at, std::memory_order_release);
    }
}

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kScratch[] = {12, 100, 24, 64, 32, 48, 80, 16, 96, 40};  // MiB
constexpr std::size_t kOrder[] = {3, 0, 7, 9, 1, 4, 8, 2, 6, 5};

template <class Take, class Give>
void scratch(benchmark::State& state, Take take, Give give) {
    void* blocks[std::size(kScratch)];
    for (auto _ : state) {
        for (std::size_t i = 0; i < std::size(kScratch); ++i) {
            blocks[i] = take(kScratch[i] * kMiB);
            benchmark::DoNotOptimize(blocks[i]);
        }
        for (const std::size_t i : kOrder) give(blocks[i], kScratch[i] * kMiB);
    }
}

void scratch_of(benchmark::State& state, const std::shared_ptr<MemoryResource>& memory) {
    MemoryResource* volatile hidden = memory.get();  // from the compiler, which would call it directly
    MemoryResource* const base = hidden;
    scratch(
        state, [&](std::size_t size) { return base->allocate(size); },
        [&](void* block, std::size_t size) { base->deallocate(block, size); });
}

void scratch_trtlab(benchmark::State& state) {
    scratch_of(state, std::make_shared<ScratchMemory>(
                          std::make_shared<HostMemory>(),
                          BlockArena::Options{.first_block_bytes = 1024 * kMiB, .max_block_bytes = 1024 * kMiB}));
}

void scratch_ring(benchmark::State& state) {
    scratch_of(state, std::make_shared<RingMemory>(std::make_shared<HostMemory>(), 1024 * kMiB));
}

void scratch_best_fit(benchmark::State& state) {
    scratch_of(state, std::make_shared<BestFitMemory>(
                          std::make_shared<HostMemory>(),
                          BlockArena::Options{.first_block_bytes = 1024 * kMiB, .max_block_bytes = 1024 * kMiB}));
}

void scratch_malloc(benchmark::State& state) {
    scratch(
        state, [](std::size_t size) { return std::malloc(size); }, [](void* block, std::size_t) { std::free(block); });
}

/// Gives nothing back but everything: one request's blocks cannot outlive those of the next.
void scratch_monotonic(benchmark::State& state) {
    HostMemory host;
    void* const buffer = host.allocate(1024 * kMiB);
    {
        std::pmr::monotonic_buffer_resource pool(buffer, 1024 * kMiB, std::pmr::null_memory_resource());
        std::pmr::memory_resource* volatile hidden = &pool;  // from the compiler, which would call it directly
        std::pmr::memory_resource* const base = hidden;
        std::size_t back = 0;
        scratch(
            state, [&](std::size_t size) { return base->allocate(size, MemoryResource::kAlignment); },
            [&](void* block, std::size_t size) {
                base->deallocate(block, size, MemoryResource::kAlignment);
                if (++back % std::size(kScratch) == 0) pool.release();
            });
    }
    host.deallocate(buffer, 1024 * kMiB);
}

std::vector<trtlab::bench::Comparison> comparisons;

using Function = void (*)(benchmark::State&);
using Contenders = std::vector<std::pair<std::string, Function>>;

/// One row for each contender; ours is the first. `iterations`: 0 for as many as 50 ms allow.
void add_row(const std::string& what, int threads, const Contenders& contenders, const std::string& aim,
             benchmark::IterationCount iterations = 0) {
    for (const auto& [who, function] : contenders) {
        auto* const row = benchmark::RegisterBenchmark((what + ", " + who).c_str(), function);
        row->UseRealTime()->Threads(threads);
        iterations == 0 ? row->MinTime(0.05) : row->Iterations(iterations);
        if (who == contenders.front().first) continue;
        comparisons.push_back({what + ", " + contenders.front().first, what + ", " + who, "time_ns",
                               trtlab::bench::Comparison::Kind::ratio, aim});
    }
}

template <template <class> class Of>
Contenders thread_safe() {
    Contenders all{{"SizeClassMemory", Of<SizeClasses>::run}, {"malloc", Of<Malloc>::run}};
    if (Jemalloc::library().take != nullptr) all.emplace_back("jemalloc", Of<Jemalloc>::run);
    if (Mimalloc::library().take != nullptr) all.emplace_back("mimalloc", Of<Mimalloc>::run);
#if TRTLAB_FOONATHAN_MEMORY
    all.emplace_back("foonathan, locked", Of<Foonathan>::run);
#endif
    all.emplace_back("pmr synchronized pool", Of<PmrSynchronized>::run);
    all.emplace_back("BestFitMemory, locked", Of<LockedBestFit>::run);
    return all;
}

template <class A>
struct Churn {
    static void run(benchmark::State& state) { churn<A>(state); }
};
template <class A>
struct BackAtOnce {
    static void run(benchmark::State& state) { back_at_once<A>(state); }
};
template <class A>
struct CrossThread {
    static void run(benchmark::State& state) { cross_thread<A>(state); }
};

/// jemalloc's thread-local memory is more than glibc sets aside for libraries that are opened later, unless it is told.
void allow_static_tls(char** argv) {
    constexpr const char* kTunables = "GLIBC_TUNABLES";
    if (std::getenv(kTunables) != nullptr) return;
    setenv(kTunables, "glibc.rtld.optional_static_tls=16384", 1);
    execv("/proc/self/exe", argv);  // on failure it goes on without
}

}  // namespace

int main(int argc, char** argv) {
    allow_static_tls(argv);
    trtlab::bench::Rounds rounds(argc, argv);
    rounds.describe("jemalloc", Jemalloc::library().path);
    rounds.describe("mimalloc", Mimalloc::library().path);
    Contenders alone = thread_safe<Churn>();
    alone.emplace_back("pmr unsynchronized pool", churn<PmrUnsynchronized>);
    add_row("churn", 1, alone, "<= 25 ns, < 1");
    add_row("churn, 2 threads", 2, thread_safe<Churn>(), "<= 25 ns, < 1");
    alone = thread_safe<BackAtOnce>();
    alone.emplace_back("pmr unsynchronized pool", back_at_once<PmrUnsynchronized>);
    add_row("back at once", 1, alone, "<= 5 ns, < 1");
    add_row("cross-thread", 2, thread_safe<CrossThread>(), "< 1", 1 << 19);
    add_row("request scratch", 1,
            {{"ScratchMemory", scratch_trtlab},
             {"RingMemory", scratch_ring},
             {"BestFitMemory", scratch_best_fit},
             {"malloc", scratch_malloc},
             {"pmr monotonic, released", scratch_monotonic}},
            "<= 400 ns");
    return rounds.run(comparisons);
}
