#include "trtlab/cuda/await.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>
#include <vector>

#include "core/frame_count.hpp"
#include "core/yield_until.hpp"
#include "simulated.hpp"
#include "trtlab/core/task.hpp"

namespace trtlab::cuda::test {
namespace {

using core::testing::FrameCount;
using core::testing::yield_until;
using testing::HasSubstr;

/// Whether it went on on the queue's thread.
core::Task<bool> await_event(FrameCount::Token, CompletionQueue* queue, const Event* event) {
    co_await reached(*queue, *event);
    co_return queue->on_this_thread();
}

class AwaitEvent : public Simulated {
protected:
    FrameCount frames_;
};

TEST_F(AwaitEvent, GoesOnAtOnceIfItWasReached) {
    CompletionQueue queue(gpu());
    const Stream stream(gpu());
    const Event event(gpu());
    event.record(stream);
    EXPECT_FALSE(core::spawn(await_event(frames_.token(), &queue, &event)).get());
    EXPECT_EQ(queue.pending(), 0u);
    EXPECT_EQ(frames_.alive(), 0);
}

TEST_F(AwaitEvent, GoesOnOnTheQueuesThreadWhenItIsReachedAndNotBefore) {
    CompletionQueue queue(gpu());
    const Stream stream(gpu());
    const Event event(gpu());
    fake_.hold();
    event.record(stream);
    const auto future = core::spawn(await_event(frames_.token(), &queue, &event));
    EXPECT_FALSE(future.done());
    EXPECT_EQ(queue.pending(), 1u);
    EXPECT_EQ(fake_.step(), 1u);
    EXPECT_TRUE(future.get());
    EXPECT_EQ(frames_.alive(), 0);
}

TEST_F(AwaitEvent, ThrowsWhatFailedBeforeIt) {
    CompletionQueue queue(gpu());
    const Stream stream(gpu());
    const Event event(gpu());
    fake_.hold();
    event.record(stream);
    const auto future = core::spawn(await_event(frames_.token(), &queue, &event));
    fake_.fail("cudaEventQuery", 0, 700);
    EXPECT_THAT(message_of<core::CudaError>([&] { (void)future.get(); }), HasSubstr("cudaEventQuery"));
    EXPECT_EQ(frames_.alive(), 0);
    fake_.fail("cudaEventQuery", 0, 0);
    fake_.release();
}

TEST_F(AwaitEvent, DestroyingTheQueueWaitsAndLeavesNoFrame) {
    const Stream stream(gpu());
    const Event event(gpu());
    std::vector<core::Future<bool>> futures;
    fake_.hold();
    event.record(stream);
    std::optional<CompletionQueue> queue(std::in_place, gpu());
    for (int i = 0; i < 20; ++i) futures.push_back(core::spawn(await_event(frames_.token(), &*queue, &event)));
    EXPECT_EQ(frames_.alive(), 20);
    fake_.release();
    queue.reset();
    EXPECT_EQ(frames_.alive(), 0);
    for (const auto& future : futures) EXPECT_TRUE(future.done());
}

}  // namespace
}  // namespace trtlab::cuda::test
