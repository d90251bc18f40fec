#include "trtlab/cuda/stream_pool.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "core/log_capture.hpp"
#include "memory_contract.hpp"
#include "simulated.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::size_t kSlab = 1 << 20;

std::shared_ptr<core::BlockArena> slabs_of(const Device& gpu) {
    return std::make_shared<core::BlockArena>(
        std::make_shared<DeviceMemory>(gpu),
        core::BlockArena::Options{.first_block_bytes = kSlab, .growth = 1, .max_block_bytes = kSlab});
}

class CudaStreamPool : public Simulated {
protected:
    void SetUp() override {
        Simulated::SetUp();
        pool_ = StreamPool::create(gpu(), slabs_of(gpu()));
    }
    void TearDown() override {
        pool_ = nullptr;
        Simulated::TearDown();
    }
    /// Work of a stream that says its name when it runs.
    void enqueue(const StreamView& stream, const std::string& name) {
        ASSERT_EQ(fake_.enqueue(stream.handle(), [this, name] { ran_.push_back(name); }), 0);
    }
    std::uint64_t event_calls() const { return fake_.calls("cudaEventRecord") + fake_.calls("cudaStreamWaitEvent"); }

    std::shared_ptr<StreamPool> pool_;
    std::vector<std::string> ran_;
};

TEST_F(CudaStreamPool, StreamReusesItsOwnWithoutACallOfCudas) {
    const Stream stream(gpu());
    const auto memory = pool_->on(stream);
    void* const block = memory->allocate(1000);
    const std::uint64_t before = event_calls(), mallocs = fake_.calls("cudaMalloc");
    for (int i = 0; i < 10; ++i) {
        memory->deallocate(block, 1000);
        EXPECT_EQ(memory->allocate(1000), block);
    }
    memory->deallocate(block, 1000);
    EXPECT_EQ(event_calls(), before);
    EXPECT_EQ(fake_.calls("cudaMalloc"), mallocs);
    EXPECT_EQ(pool_->stats().taken_over, 0u);
}

TEST_F(CudaStreamPool, BlockOfAnotherStreamIsUsedAfterThatStreamsWork) {
    const Stream a(gpu()), b(gpu());
    const auto of_a = pool_->on(a), of_b = pool_->on(b);
    void* const block = of_a->allocate(kSlab);
    fake_.hold();
    enqueue(a, "a");
    of_a->deallocate(block, kSlab);
    EXPECT_EQ(of_b->allocate(1000), block);
    enqueue(b, "b");
    while (fake_.step(1, b.handle()) != 0) {
    }
    EXPECT_TRUE(ran_.empty()) << "b waits for a";
    enqueue(a, "a, later");
    fake_.step(2, a.handle());
    while (fake_.step(1, b.handle()) != 0) {
    }
    EXPECT_THAT(ran_, testing::ElementsAre("a", "b")) << "and not for what a was given to do afterwards";
    fake_.release();
    of_b->deallocate(block, 1000);
    EXPECT_EQ(pool_->stats().taken_over, 1u);
    EXPECT_EQ(pool_->stats().slabs, 1u);
}

TEST_F(CudaStreamPool, WhatSeveralStreamsHaveFreeIsJoinedBeforeASlabIsTaken) {
    const Stream a(gpu()), b(gpu()), c(gpu());
    const auto of_a = pool_->on(a), of_b = pool_->on(b), of_c = pool_->on(c);
    void* const first = of_a->allocate(kSlab / 2);
    void* const second = of_a->allocate(kSlab / 2);
    fake_.hold();
    enqueue(a, "a");
    enqueue(b, "b");
    of_a->deallocate(first, kSlab / 2);
    of_b->deallocate(second, kSlab / 2);
    EXPECT_EQ(of_c->allocate(kSlab), first);
    enqueue(c, "c");
    while (fake_.step(1, c.handle()) != 0) {
    }
    EXPECT_TRUE(ran_.empty());
    fake_.release();
    EXPECT_EQ(ran_.back(), "c");
    EXPECT_EQ(pool_->stats().gathered, 1u);
    EXPECT_EQ(pool_->stats().slabs, 1u);
    of_c->deallocate(first, kSlab);
}

TEST_F(CudaStreamPool, StreamThatComesAfterAnotherInheritsWhatItHadFree) {
    void* block = nullptr;
    fake_.hold();
    {
        const Stream gone(gpu());
        const auto memory = pool_->on(gone);
        block = memory->allocate(kSlab);
        enqueue(gone, "gone");
        memory->deallocate(block, kSlab);
    }
    EXPECT_EQ(pool_->stats().streams, 0u);
    const Stream next(gpu());
    const auto memory = pool_->on(next);
    EXPECT_EQ(memory->allocate(kSlab), block);
    enqueue(next, "next");
    while (fake_.step(1, next.handle()) != 0) {
    }
    EXPECT_TRUE(ran_.empty());
    fake_.release();
    EXPECT_THAT(ran_, testing::ElementsAre("gone", "next"));
    EXPECT_EQ(pool_->stats().streams, 1u);
    memory->deallocate(block, kSlab);
}

TEST_F(CudaStreamPool, StreamThatIsBeingCapturedStaysByItself) {
    const Stream a(gpu()), b(gpu());
    const auto of_a = pool_->on(a), of_b = pool_->on(b);
    void* const block = of_a->allocate(kSlab);
    void* const own = of_b->allocate(kSlab);
    of_a->deallocate(block, kSlab);
    of_b->deallocate(own, kSlab);
    const std::uint64_t before = event_calls();
    b.begin_capture();
    EXPECT_EQ(of_b->allocate(kSlab), own);
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { (void)of_b->allocate(1000); }),
                AllOf(HasSubstr("1000 bytes"), HasSubstr("being captured")));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { (void)pool_->on(b); }), HasSubstr("captured"));
    of_b->deallocate(own, kSlab);
    EXPECT_EQ(of_a->allocate(kSlab), block);
    EXPECT_THROW((void)of_a->allocate(kSlab), core::CudaError)
        << "nor is it taken from; and CUDA gives nothing meanwhile";
    EXPECT_EQ(event_calls(), before);
    b.abandon_capture();
    EXPECT_EQ(of_a->allocate(kSlab), own);
    of_a->deallocate(own, kSlab);
    of_a->deallocate(block, kSlab);
}

TEST_F(CudaStreamPool, TrimWaitsForTheDeviceAndGivesFreeSlabsBack) {
    const Stream a(gpu()), b(gpu());
    const auto of_a = pool_->on(a), of_b = pool_->on(b);
    void* const kept = of_a->allocate(kSlab);
    void* const half = of_a->allocate(kSlab / 2);
    void* const other = of_a->allocate(kSlab / 2);
    of_a->deallocate(half, kSlab / 2);
    of_b->deallocate(other, kSlab / 2);
    enqueue(a, "a");
    EXPECT_EQ(pool_->trim(), kSlab);
    EXPECT_EQ(ran_.size(), 1u);
    EXPECT_EQ(pool_->stats().bytes, kSlab);
    EXPECT_EQ(pool_->stats().live, 1u);
    of_b->deallocate(kept, kSlab);
    EXPECT_EQ(pool_->trim(), kSlab);
    EXPECT_EQ(pool_->stats().slabs, 0u);
}

TEST_F(CudaStreamPool, ExhaustionSaysWhoWantedHowMuchAndChangesNothing) {
    fake_.set_memory(0, kSlab + 1000);
    const Stream stream(gpu());
    const auto memory = pool_->on(stream);
    void* const block = memory->allocate(1000);
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { (void)memory->allocate(kSlab); }),
                AllOf(HasSubstr("pool of streams over block arena over device memory of cuda:0"),
                      HasSubstr("1048576 bytes"), HasSubstr("cudaMalloc")));
    EXPECT_THROW((void)memory->allocate(SIZE_MAX), core::OutOfMemory);
    EXPECT_THROW((void)memory->allocate(SIZE_MAX - 1000, 4096), core::OutOfMemory);
    memory->deallocate(block, 1000);
    EXPECT_EQ(memory->allocate(kSlab), block);
    memory->deallocate(block, kSlab);
}

TEST_F(CudaStreamPool, FreeSlabsAreGivenUpForABlockThatIsLargerThanEach) {
    fake_.set_memory(0, 2 * kSlab);
    const Stream a(gpu()), b(gpu());
    const auto of_a = pool_->on(a), of_b = pool_->on(b);
    void* const first = of_a->allocate(kSlab);
    void* const second = of_b->allocate(kSlab);
    of_a->deallocate(first, kSlab);
    of_b->deallocate(second, kSlab);
    const std::uint64_t waits = fake_.calls("cudaDeviceSynchronize");
    void* const large = of_a->allocate(2 * kSlab);
    EXPECT_EQ(fake_.calls("cudaDeviceSynchronize"), waits + 1);
    EXPECT_EQ(pool_->stats().slabs, 1u);
    of_a->deallocate(large, 2 * kSlab);
}

TEST_F(CudaStreamPool, FailureToOrderTwoStreamsLeavesTheBlockWhereItWas) {
    const Stream a(gpu()), b(gpu());
    const auto of_a = pool_->on(a), of_b = pool_->on(b);
    void* const block = of_a->allocate(kSlab);
    of_a->deallocate(block, kSlab);
    fake_.fail("cudaStreamWaitEvent", 1, 1);
    EXPECT_THROW((void)of_b->allocate(kSlab), core::CudaError);
    EXPECT_EQ(pool_->stats().live, 0u);
    EXPECT_EQ(of_a->allocate(kSlab), block);
    of_a->deallocate(block, kSlab);
}

TEST_F(CudaStreamPool, ForeignBlocksAndStreamsOfOtherDevicesAreRefused) {
    const core::testing::LogCapture log;
    pool_ = nullptr;
    restart(2);
    pool_ = StreamPool::create(gpu(), slabs_of(gpu()));
    const Stream here(gpu()), elsewhere(gpu(1));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { (void)pool_->on(elsewhere); }),
                AllOf(HasSubstr("cuda:1"), HasSubstr("cuda:0")));
    EXPECT_THROW(StreamPool::create(gpu(), nullptr), core::InvalidArgument);
    int other = 0;
    pool_->on(here)->deallocate(&other, 4);
    EXPECT_THAT(log.messages(), testing::SizeIs(1));
}

/// Every block is marked by its stream's first work and looked at by its last, while streams run as a test has them: a block
/// that is used again too early loses its mark.
TEST_F(CudaStreamPool, NoBlockIsUsedAgainBeforeItsLastUseIsOver) {
    std::mt19937 random(20261125);
    constexpr std::size_t kStreams = 4;
    std::vector<Stream> streams;
    std::vector<std::shared_ptr<core::MemoryResource>> memories;
    for (std::size_t i = 0; i < kStreams; ++i) {
        streams.emplace_back(gpu());
        memories.push_back(pool_->on(streams.back()));
    }
    struct Held {
        std::size_t stream;
        char* block;
        std::size_t size;
        char mark;
    };
    std::vector<Held> live;
    int spoiled = 0;
    fake_.hold();
    for (int step = 0; step < 3000; ++step) {
        if (live.size() < 40 && random() % 2 == 0) {
            const std::size_t stream = random() % kStreams, size = 1 + random() % 100'000;
            const Held held{stream, static_cast<char*>(memories[stream]->allocate(size)), size,
                            static_cast<char>(random())};
            fake_.enqueue(streams[stream].handle(), [held] { std::memset(held.block, held.mark, held.size); });
            live.push_back(held);
        } else if (!live.empty()) {
            std::swap(live[random() % live.size()], live.back());
            const Held held = live.back();
            live.pop_back();
            fake_.enqueue(streams[held.stream].handle(), [held, &spoiled] {
                for (std::size_t i = 0; i < held.size; i += 64) spoiled += held.block[i] != held.mark;
            });
            memories[held.stream]->deallocate(held.block, held.size);
        }
        if (random() % 3 == 0) fake_.step(random() % 4, streams[random() % kStreams].handle());
        if (step % 500 == 0) memories[0] = nullptr, memories[0] = pool_->on(streams[0]);
    }
    fake_.release();
    EXPECT_EQ(spoiled, 0);
    const StreamPool::Stats stats = pool_->stats();
    EXPECT_GT(stats.taken_over, 50u) << "or nothing was tried";
    for (const Held& held : live) memories[held.stream]->deallocate(held.block, held.size);
    EXPECT_EQ(pool_->trim(), stats.bytes);
}

TEST_F(CudaStreamPool, ThreadsWithAStreamEachMayShareIt) {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread) {
        threads.emplace_back([&, thread] {
            const Stream stream(gpu());
            const auto memory = pool_->on(stream);
            for (int i = 0; i < 300; ++i) {
                const std::size_t size = static_cast<std::size_t>(1 + thread) * 10'000;
                void* const block = memory->allocate(size);
                memory->deallocate(block, size);
            }
        });
    }
    threads.clear();
    EXPECT_EQ(pool_->stats().live, 0u);
    EXPECT_EQ(pool_->stats().streams, 0u);
    EXPECT_EQ(pool_->stats().slabs, 1u);
}

}  // namespace
}  // namespace trtlab::cuda::test

namespace trtlab::core::testing {
namespace {

/// With the stream that it needs.
class OwnStreamPool final : public MemoryResource {
public:
    explicit OwnStreamPool(const cuda::Device& gpu)
        : stream_(gpu), pool_(cuda::StreamPool::create(gpu, cuda::test::slabs_of(gpu))), memory_(pool_->on(stream_)) {}
    ~OwnStreamPool() override { memory_ = nullptr; }
    core::Device device() const noexcept override { return memory_->device(); }
    std::string name() const override { return memory_->name(); }
    std::size_t live() const { return pool_->stats().live; }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override {
        return memory_->allocate(size_bytes, alignment);
    }
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override {
        memory_->deallocate(block, size_bytes, alignment);
    }

private:
    cuda::Stream stream_;
    std::shared_ptr<cuda::StreamPool> pool_;
    std::shared_ptr<MemoryResource> memory_;
};

struct FakeGpu {
    static std::string why_not() { return ""; }
    static cuda::Device gpu() {
        FakeCuda(cuda::test::fake_path()).reset();
        return {cuda::Library::open({.path = cuda::test::fake_path(), .directories = {}}), 0};
    }
};

struct RealGpu {
    static const std::shared_ptr<const cuda::Library>& library() {
        static const std::shared_ptr<const cuda::Library> opened = cuda::test::real_library();
        return opened;
    }
    static std::string why_not() {
        return library()->device_count() > 0 ? "" : "no CUDA device: " + library()->why_no_device();
    }
    static cuda::Device gpu() { return {library(), 0}; }
};

template <class On>
struct Pooled : On {
    inline static std::weak_ptr<OwnStreamPool> last;
    static std::shared_ptr<MemoryResource> make() {
        auto made = std::make_shared<OwnStreamPool>(On::gpu());
        last = made;
        return made;
    }
    static constexpr std::size_t kPromisedAlignment = 1 << 20;
    static constexpr std::size_t kTooMuch = std::size_t{1} << 46;
    static std::size_t live_blocks() { return last.lock()->live(); }
};

INSTANTIATE_TYPED_TEST_SUITE_P(FakeStreamPool, MemoryContract, Pooled<FakeGpu>);
INSTANTIATE_TYPED_TEST_SUITE_P(GpuStreamPool, MemoryContract, Pooled<RealGpu>);

}  // namespace
}  // namespace trtlab::core::testing
