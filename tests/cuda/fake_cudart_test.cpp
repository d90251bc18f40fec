// The fake runtime is what the other tests stand on: that it notices what they rely on it to notice.

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "api.hpp"
#include "simulated.hpp"

namespace trtlab::cuda::test {
namespace {

class FakeCudart : public Simulated {
protected:
    void* allocate(std::size_t size) {
        void* block = nullptr;
        EXPECT_EQ(api().Malloc(&block, size), cudaSuccess);
        return block;
    }
    const Library::Api& api() const { return library_->api(); }
    cudaError_t copy(void* to, const void* from, std::size_t size) {
        const cudaError_t status = api().MemcpyAsync(to, from, size, cudaMemcpyDefault, nullptr);
        return status != cudaSuccess ? status : api().StreamSynchronize(nullptr);
    }
};

TEST_F(FakeCudart, NoticesACopyOutOfBounds) {
    violations_ = 1;
    auto* block = static_cast<char*>(allocate(16));
    std::vector<char> bytes(32);
    EXPECT_EQ(copy(bytes.data(), block + 8, 9), cudaErrorIllegalAddress);
    EXPECT_EQ(api().Free(block), cudaErrorIllegalAddress) << "the device is lost, and the block gone with it";
}

TEST_F(FakeCudart, NoticesACopyFromFreedMemory) {
    violations_ = 1;
    void* block = allocate(16);
    EXPECT_EQ(api().Free(block), cudaSuccess);
    char bytes[16];
    EXPECT_EQ(copy(bytes, block, 16), cudaErrorIllegalAddress);
}

TEST_F(FakeCudart, NoticesAWriteBehindTheEnd) {
    violations_ = 1;
    auto* block = static_cast<char*>(allocate(16));
    block[16] = 0;
    EXPECT_EQ(api().Free(block), cudaErrorIllegalAddress);
}

TEST_F(FakeCudart, NoticesABlockThatIsFreedTwiceOrByTheWrongFunction) {
    violations_ = 2;
    void* block = allocate(16);
    EXPECT_EQ(api().FreeHost(block), cudaErrorInvalidValue);
    EXPECT_EQ(api().Free(block), cudaSuccess);
    EXPECT_EQ(api().Free(block), cudaErrorInvalidValue);
}

TEST_F(FakeCudart, FreshMemoryIsNotZero) {
    void* block = allocate(16);
    char bytes[16] = {};
    EXPECT_EQ(copy(bytes, block, 16), cudaSuccess);
    EXPECT_THAT(std::vector<char>(bytes, bytes + 16), testing::Each(static_cast<char>(0xCB)));
    EXPECT_EQ(api().Free(block), cudaSuccess);
}

TEST_F(FakeCudart, PageableMemoryIsReadBeforeTheCopyReturns) {
    void* block = allocate(4);
    fake_.hold();
    char bytes[4] = "abc";
    EXPECT_EQ(api().MemcpyAsync(block, bytes, 4, cudaMemcpyDefault, nullptr), cudaSuccess);
    std::memset(bytes, 0, 4);
    fake_.release();
    EXPECT_EQ(copy(bytes, block, 4), cudaSuccess);
    EXPECT_STREQ(bytes, "abc");
    EXPECT_EQ(fake_.copies().pageable, 8u);
    EXPECT_EQ(api().Free(block), cudaSuccess);
}

TEST_F(FakeCudart, NthCallFailsOnceAndEveryCallUntilItIsEnded) {
    int device = -1;
    fake_.fail("cudaGetDevice", 2, 46);
    EXPECT_EQ(api().GetDevice(&device), cudaSuccess);
    EXPECT_EQ(api().GetDevice(&device), 46);
    EXPECT_EQ(api().GetLastError(), 46);
    EXPECT_EQ(api().GetLastError(), cudaSuccess);
    fake_.fail("cudaGetDevice", 0, 46);
    EXPECT_EQ(api().GetDevice(&device), 46);
    EXPECT_EQ(api().GetDevice(&device), 46);
    fake_.fail("cudaGetDevice", 0, 0);
    EXPECT_EQ(api().GetDevice(&device), cudaSuccess);
    EXPECT_EQ(fake_.calls("cudaGetDevice"), 5u);
}

TEST_F(FakeCudart, WorkThatFailsWithoutLosingTheDeviceIsToldOnce) {
    fake_.fail("execute", 1, 999);
    bool ran = false;
    EXPECT_EQ(fake_.enqueue(nullptr, [&] { ran = true; }), 0);
    EXPECT_FALSE(ran);
    EXPECT_EQ(api().StreamSynchronize(nullptr), 999);
    EXPECT_EQ(api().StreamSynchronize(nullptr), cudaSuccess);
}

TEST_F(FakeCudart, HostWorkIsDestroyedOnceWhateverBecomesOfIt) {
    auto kept = std::make_shared<int>(0);
    EXPECT_EQ(fake_.enqueue(nullptr, [kept] { ++*kept; }), 0);
    EXPECT_EQ(kept.use_count(), 1);
    EXPECT_EQ(fake_.enqueue(kept.get(), [kept] { ++*kept; }), cudaErrorInvalidResourceHandle);
    EXPECT_EQ(kept.use_count(), 1);
    fake_.hold();
    EXPECT_EQ(fake_.enqueue(nullptr, [kept] { ++*kept; }), 0);
    EXPECT_EQ(kept.use_count(), 2);
    fake_.reset();
    EXPECT_EQ(kept.use_count(), 1);
    EXPECT_EQ(*kept, 1);
}

TEST_F(FakeCudart, HostWorkMayCallTheRuntime) {
    int device = -1;
    EXPECT_EQ(fake_.enqueue(nullptr, [&] { EXPECT_EQ(api().GetDevice(&device), cudaSuccess); }), 0);
    EXPECT_EQ(device, 0);
}

TEST_F(FakeCudart, StepsTheOldestFirstAndAStreamInItsOrder) {
    cudaStream_t first = nullptr, second = nullptr;
    ASSERT_EQ(api().StreamCreateWithPriority(&first, 0, 0), cudaSuccess);
    ASSERT_EQ(api().StreamCreateWithPriority(&second, 0, 0), cudaSuccess);
    fake_.hold();
    std::vector<int> order;
    for (int i = 0; i < 4; ++i) {
        ASSERT_EQ(fake_.enqueue(i % 2 == 0 ? first : second, [&order, i] { order.push_back(i); }), 0);
    }
    EXPECT_EQ(fake_.queued(), 4u);
    EXPECT_EQ(fake_.step(1, second), 1u);
    EXPECT_EQ(fake_.step(2), 2u);
    EXPECT_THAT(order, testing::ElementsAre(1, 0, 2));
    fake_.release();
    EXPECT_THAT(order, testing::ElementsAre(1, 0, 2, 3));
    EXPECT_EQ(api().StreamDestroy(first), cudaSuccess);
    EXPECT_EQ(api().StreamDestroy(second), cudaSuccess);
}

TEST_F(FakeCudart, ResetForgetsEverythingAndLetsWaitersGo) {
    void* block = allocate(16);
    cudaStream_t stream = nullptr;
    ASSERT_EQ(api().StreamCreateWithPriority(&stream, 0, 0), cudaSuccess);
    fake_.hold();
    ASSERT_EQ(fake_.enqueue(stream, [] {}), 0);
    std::thread waiter([&] { (void)api().StreamSynchronize(stream); });
    while (fake_.calls("cudaStreamSynchronize") == 0) std::this_thread::yield();
    fake_.reset();
    waiter.join();
    EXPECT_EQ(fake_.live_objects(), 0u);
    EXPECT_EQ(api().StreamQuery(stream), cudaErrorInvalidResourceHandle);
    EXPECT_EQ(fake_.room_at(block), 0u);
}

TEST_F(FakeCudart, TellsTheRoomInABlock) {
    auto* block = static_cast<char*>(allocate(100));
    EXPECT_EQ(fake_.room_at(block), 100u);
    EXPECT_EQ(fake_.room_at(block + 40), 60u);
    EXPECT_EQ(fake_.room_at(block + 100), 0u);
    EXPECT_EQ(api().Free(block), cudaSuccess);
}

}  // namespace
}  // namespace trtlab::cuda::test
