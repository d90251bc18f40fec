#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <cstring>
#include <memory>
#include <thread>

#include "api.hpp"
#include "simulated.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::HasSubstr;

class CudaGraph : public Simulated {
protected:
    core::Buffer device_block(std::size_t size) { return {std::make_shared<DeviceMemory>(gpu()), size}; }
    core::Buffer pinned_block(std::size_t size) { return {std::make_shared<PinnedMemory>(gpu()), size}; }
};

TEST_F(CudaGraph, RunsWhatWasRecordedWithTheValuesOfTheLaunch) {
    const Stream stream(gpu());
    const core::Buffer in = pinned_block(4), middle = device_block(4), out = pinned_block(4);
    stream.begin_capture();
    stream.copy(middle.view(), in.view());
    stream.copy(out.view(), middle.view());
    const Graph graph = stream.end_capture();
    EXPECT_EQ(graph.nodes(), 2u);
    EXPECT_EQ(fake_.copies().count, 0u) << "recording runs nothing";
    graph.upload(stream);
    for (const char* text : {"abc", "xyz"}) {
        std::memcpy(in.data(), text, 4);
        std::memset(out.data(), 0, 4);
        graph.launch(stream);
        stream.synchronize();
        EXPECT_STREQ(static_cast<const char*>(out.data()), text);
    }
}

TEST_F(CudaGraph, IsOneThingInItsStream) {
    const Stream stream(gpu());
    int runs = 0;
    stream.begin_capture();
    for (int i = 0; i < 3; ++i) ASSERT_EQ(fake_.enqueue(stream.handle(), [&] { ++runs; }), 0);
    const Graph graph = stream.end_capture();
    EXPECT_EQ(graph.nodes(), 3u);
    fake_.hold();
    graph.launch(stream);
    graph.launch(stream);
    EXPECT_EQ(fake_.step(1), 1u);
    EXPECT_EQ(runs, 3);
    fake_.release();
    EXPECT_EQ(runs, 6);
}

TEST_F(CudaGraph, DrawsInStreamsThatAreForkedAndJoined) {
    const Stream origin(gpu()), side(gpu());
    const Event forked(gpu()), joined(gpu());
    std::vector<int> order;
    origin.begin_capture();
    ASSERT_EQ(fake_.enqueue(origin.handle(), [&] { order.push_back(1); }), 0);
    forked.record(origin);
    side.wait(forked);
    ASSERT_EQ(fake_.enqueue(side.handle(), [&] { order.push_back(2); }), 0);
    joined.record(side);
    origin.wait(joined);
    const Graph graph = origin.end_capture();
    EXPECT_EQ(graph.nodes(), 2u);
    graph.launch(origin);
    EXPECT_THAT(order, testing::ElementsAre(1, 2));
    ASSERT_EQ(fake_.enqueue(side.handle(), [&] { order.push_back(3); }), 0);
    EXPECT_THAT(order, testing::ElementsAre(1, 2, 3)) << "the other stream records no more";
}

TEST_F(CudaGraph, OfAStreamThatWasNotJoinedIsRefusedAndTheStreamUsable) {
    const Stream origin(gpu()), side(gpu());
    const Event forked(gpu());
    origin.begin_capture();
    forked.record(origin);
    side.wait(forked);
    EXPECT_THAT(message_of<core::CudaError>([&] { (void)origin.end_capture(); }),
                HasSubstr("cudaErrorStreamCaptureUnjoined"));
    bool ran = false;
    ASSERT_EQ(fake_.enqueue(origin.handle(), [&] { ran = true; }), 0);
    EXPECT_TRUE(ran);
}

TEST_F(CudaGraph, RecordingThatWaitsForWhatIsOutsideIsBroken) {
    const Stream stream(gpu()), other(gpu());
    const Event event(gpu());
    event.record(other);
    stream.begin_capture();
    EXPECT_THROW(stream.wait(event), core::CudaError);
    EXPECT_THROW((void)stream.end_capture(), core::CudaError);
    EXPECT_TRUE(stream.done());
}

TEST_F(CudaGraph, AllocatingWhileRecordingBreaksIt) {
    const Stream stream(gpu());
    stream.begin_capture();
    EXPECT_THROW(device_block(16), core::CudaError);
    EXPECT_THAT(message_of<core::CudaError>([&] { (void)stream.end_capture(); }),
                HasSubstr("cudaErrorStreamCaptureInvalidated"));
}

TEST_F(CudaGraph, RecordingsOfDifferentThreadsDoNotDisturbEachOther) {
    std::barrier both(2);
    std::atomic<int> runs{0};
    const auto record = [&] {
        const Stream stream(gpu());
        stream.begin_capture();
        both.arrive_and_wait();
        EXPECT_EQ(fake_.enqueue(stream.handle(), [&] { ++runs; }), 0);
        both.arrive_and_wait();
        const Graph graph = stream.end_capture();
        graph.launch(stream);
        stream.synchronize();
    };
    std::thread other(record);
    record();
    other.join();
    EXPECT_EQ(runs, 2);
}

TEST_F(CudaGraph, AnotherThreadMayAllocateWhileOneRecords) {
    const Stream stream(gpu());
    stream.begin_capture();
    std::thread([&] { EXPECT_NE(device_block(16).data(), nullptr); }).join();
    EXPECT_EQ(stream.end_capture().nodes(), 0u);
}

TEST_F(CudaGraph, AbandonedRecordingLeavesTheStreamUsable) {
    const Stream stream(gpu());
    auto kept = std::make_shared<int>(0);
    stream.begin_capture();
    ASSERT_EQ(fake_.enqueue(stream.handle(), [kept] { ++*kept; }), 0);
    stream.abandon_capture();
    EXPECT_EQ(kept.use_count(), 1) << "what was recorded is dropped";
    stream.abandon_capture();  // there is none
    ASSERT_EQ(fake_.enqueue(stream.handle(), [kept] { ++*kept; }), 0);
    EXPECT_EQ(*kept, 1);
}

TEST_F(CudaGraph, AbandoningABrokenRecordingLeavesNoError) {
    const Stream stream(gpu());
    stream.begin_capture();
    EXPECT_THROW(stream.synchronize(), core::CudaError);
    stream.abandon_capture();
    EXPECT_EQ(library_->api().GetLastError(), cudaSuccess);
    EXPECT_TRUE(stream.done());
}

TEST_F(CudaGraph, ThatCannotBeMadeFromItsRecordingLeavesNothingBehind) {
    const Stream stream(gpu());
    for (const char* call : {"cudaGraphInstantiate", "cudaGraphGetNodes"}) {
        stream.begin_capture();
        fake_.fail(call, 1, 999);
        EXPECT_THAT(message_of<core::CudaError>([&] { (void)stream.end_capture(); }), HasSubstr(call));
        EXPECT_EQ(fake_.live().graphs + fake_.live().executables, 0u);
        EXPECT_TRUE(stream.done());
    }
}

TEST_F(CudaGraph, KeepsNothingAfterItsEnd) {
    const Stream stream(gpu());
    auto kept = std::make_shared<int>(0);
    const auto record = [&] {
        stream.begin_capture();
        EXPECT_EQ(fake_.enqueue(stream.handle(), [kept] { ++*kept; }), 0);
        return stream.end_capture();
    };
    {
        Graph first = record();
        Graph second(record());
        EXPECT_EQ(kept.use_count(), 3);
        first = std::move(second);
        first.launch(stream);
        EXPECT_EQ(*kept, 1);
    }
    EXPECT_EQ(kept.use_count(), 1);
    EXPECT_EQ(fake_.live().executables, 0u);
}

TEST_F(CudaGraph, LaunchOfWhatReadsFreedMemoryLosesTheDevice) {
    violations_ = 1;
    const Stream stream(gpu());
    const core::Buffer out = pinned_block(4);
    core::Buffer in = device_block(4);
    stream.begin_capture();
    stream.copy(out.view(), in.view());
    const Graph graph = stream.end_capture();
    in.reset();
    graph.launch(stream);
    try {
        stream.synchronize();
        FAIL() << "nothing was thrown";
    } catch (const core::CudaError& error) {
        EXPECT_TRUE(error.device_lost());
    }
}

}  // namespace
}  // namespace trtlab::cuda::test
