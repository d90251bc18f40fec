// What every MemoryResource promises, asked of the suballocators and of compositions, over host memory and over memory that
// the CPU cannot touch. Those that are for one thread at a time stand behind a lock, as the suite uses many.

#include "memory_contract.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include "trtlab/core/best_fit_memory.hpp"
#include "trtlab/core/block_arena.hpp"
#include "trtlab/core/ring_memory.hpp"
#include "trtlab/core/scratch_memory.hpp"
#include "trtlab/core/size_class_memory.hpp"
#include "trtlab/core/synchronized_memory.hpp"
#include "untouchable_memory.hpp"

namespace trtlab::core::testing {
namespace {

/// `Made` says what is made over an upstream, and what of it is live.
template <class Made, class Upstream>
struct Over {
    static std::string why_not() { return ""; }
    static std::shared_ptr<MemoryResource> make() { return Made::make(std::make_shared<Upstream>()); }
    static constexpr std::size_t kPromisedAlignment = 1 << 20;
    static constexpr std::size_t kTooMuch = std::size_t{1} << 60;
    static std::size_t live_blocks() { return Made::live_blocks(); }
};

template <class Resource>
std::shared_ptr<MemoryResource> locked(std::weak_ptr<Resource>& last, std::shared_ptr<Resource> made) {
    last = made;
    return std::make_shared<SynchronizedMemory>(std::move(made));
}

struct Arena {
    inline static std::weak_ptr<BlockArena> last;
    static std::shared_ptr<MemoryResource> make(std::shared_ptr<MemoryResource> upstream) {
        const auto made = std::make_shared<BlockArena>(std::move(upstream));
        last = made;
        return made;
    }
    static std::size_t live_blocks() { return last.lock()->stats().blocks_in_use; }
};

struct Scratch {
    inline static std::weak_ptr<ScratchMemory> last;
    static std::shared_ptr<MemoryResource> make(std::shared_ptr<MemoryResource> upstream) {
        return locked(
            last, std::make_shared<ScratchMemory>(std::move(upstream), BlockArena::Options{.first_block_bytes = 4096}));
    }
    static std::size_t live_blocks() { return last.lock()->stats().live; }
};

struct Ring {
    inline static std::weak_ptr<RingMemory> last;
    static std::shared_ptr<MemoryResource> make(std::shared_ptr<MemoryResource> upstream) {
        return locked(last, std::make_shared<RingMemory>(std::move(upstream), std::size_t{1} << 20));
    }
    static std::size_t live_blocks() { return last.lock()->stats().live; }
};

template <bool kGrow>
struct BestFit {
    inline static std::weak_ptr<BestFitMemory> last;
    static std::shared_ptr<MemoryResource> make(std::shared_ptr<MemoryResource> upstream) {
        return locked(last, std::make_shared<BestFitMemory>(
                                std::make_shared<BlockArena>(std::move(upstream)),
                                BestFitMemory::Options{.first_slab_bytes = std::size_t{1} << 20, .grow = kGrow}));
    }
    static std::size_t live_blocks() { return last.lock()->stats().live; }
};

/// Knows of a block that is free, and not of one that is live: `live_blocks` is what was passed through to the upstream.
struct SizeClasses {
    inline static std::weak_ptr<SizeClassMemory> last;
    static std::shared_ptr<MemoryResource> make(std::shared_ptr<MemoryResource> upstream) {
        const auto made = std::make_shared<SizeClassMemory>(std::move(upstream));
        last = made;
        return made;
    }
    static std::size_t live_blocks() { return last.lock()->stats().large_bytes; }
};

struct SizeClassesOverBestFit {
    static std::shared_ptr<MemoryResource> make(std::shared_ptr<MemoryResource> upstream) {
        return SizeClasses::make(std::make_shared<BestFitMemory>(std::move(upstream)));
    }
    static std::size_t live_blocks() { return SizeClasses::live_blocks(); }
};

template <class Made>
using OverHost = Over<Made, HostMemory>;
template <class Made>
using OverUntouchable = Over<Made, UntouchableMemory>;

INSTANTIATE_TYPED_TEST_SUITE_P(BlockArena, MemoryContract, OverHost<Arena>);
INSTANTIATE_TYPED_TEST_SUITE_P(BlockArenaUntouchable, MemoryContract, OverUntouchable<Arena>);
INSTANTIATE_TYPED_TEST_SUITE_P(Scratch, MemoryContract, OverHost<Scratch>);
INSTANTIATE_TYPED_TEST_SUITE_P(ScratchUntouchable, MemoryContract, OverUntouchable<Scratch>);
INSTANTIATE_TYPED_TEST_SUITE_P(Ring, MemoryContract, OverHost<Ring>);
INSTANTIATE_TYPED_TEST_SUITE_P(RingUntouchable, MemoryContract, OverUntouchable<Ring>);
INSTANTIATE_TYPED_TEST_SUITE_P(BestFit, MemoryContract, OverHost<BestFit<true>>);
INSTANTIATE_TYPED_TEST_SUITE_P(BestFitUntouchable, MemoryContract, OverUntouchable<BestFit<true>>);
INSTANTIATE_TYPED_TEST_SUITE_P(BestFitOfOneSlab, MemoryContract, OverUntouchable<BestFit<false>>);
INSTANTIATE_TYPED_TEST_SUITE_P(SizeClasses, MemoryContract, OverHost<SizeClasses>);
INSTANTIATE_TYPED_TEST_SUITE_P(SizeClassesUntouchable, MemoryContract, OverUntouchable<SizeClasses>);
INSTANTIATE_TYPED_TEST_SUITE_P(SizeClassesOverBestFit, MemoryContract, OverUntouchable<SizeClassesOverBestFit>);

TEST(SynchronizedMemory, KeepsItsUpstreamAndNamesIt) {
    auto upstream = std::make_shared<UntouchableMemory>();
    const SynchronizedMemory memory(upstream);
    EXPECT_EQ(memory.name(), "synchronized untouchable memory");
    EXPECT_EQ(memory.device(), upstream->device());
    EXPECT_EQ(upstream.use_count(), 2);
    EXPECT_THROW(SynchronizedMemory(nullptr), InvalidArgument);
}

TEST(ForkedChild, IsRefusedByWhatHasALockAndGoesOn) {
    const auto arena = std::make_shared<BlockArena>(std::make_shared<UntouchableMemory>());
    const auto locked_scratch = std::make_shared<SynchronizedMemory>(std::make_shared<ScratchMemory>(arena));
    void* const block = locked_scratch->allocate(100);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
        int refused = 0;
        for (const std::shared_ptr<MemoryResource>& memory :
             {std::static_pointer_cast<MemoryResource>(arena),
              std::static_pointer_cast<MemoryResource>(locked_scratch)}) {
            try {
                (void)memory->allocate(100);
            } catch (const Closed&) {
                ++refused;
            }
        }
        locked_scratch->deallocate(block, 100);
        arena->release(block);
        arena->trim();
        _exit(refused == 2 ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    locked_scratch->deallocate(block, 100);
}

}  // namespace
}  // namespace trtlab::core::testing
