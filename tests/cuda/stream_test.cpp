#include "trtlab/cuda/stream.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <numeric>
#include <optional>
#include <thread>
#include <vector>

#include "api.hpp"
#include "core/log_capture.hpp"
#include "simulated.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class CudaStream : public Simulated {
protected:
    core::Buffer device_block(std::size_t size, int ordinal = 0) {
        return {std::make_shared<DeviceMemory>(gpu(ordinal)), size};
    }
    core::Buffer pinned_block(std::size_t size) { return {std::make_shared<PinnedMemory>(gpu()), size}; }
    static core::BufferView host(std::vector<unsigned char>& bytes) { return {bytes.data(), bytes.size(), {}}; }
};

TEST_F(CudaStream, CopiesThereAndBack) {
    const Stream stream(gpu());
    std::vector<unsigned char> sent(1000), received(1000, 0);
    std::iota(sent.begin(), sent.end(), 1);
    const core::Buffer first = device_block(1000), second = device_block(1000);
    stream.copy(first.view(), host(sent));
    stream.copy(second.view(), first.view());
    stream.copy(host(received), second.view());
    stream.synchronize();
    EXPECT_EQ(sent, received);
    const FakeCudaCopies copies = fake_.copies();
    EXPECT_EQ(copies.host_to_device, 1000u);
    EXPECT_EQ(copies.device_to_device, 1000u);
    EXPECT_EQ(copies.device_to_host, 1000u);
}

TEST_F(CudaStream, CopyRefusesSizesThatDiffer) {
    const Stream stream(gpu());
    std::vector<unsigned char> bytes(8);
    const core::Buffer block = device_block(16);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { stream.copy(block.view(), host(bytes)); }),
                AllOf(HasSubstr("8 bytes on cpu"), HasSubstr("16 bytes on cuda:0"), HasSubstr("sizes differ")));
    EXPECT_EQ(fake_.copies().count, 0u);
}

TEST_F(CudaStream, CopyAndFillRefuseAnAddressOfNull) {
    const Stream stream(gpu());
    const core::Buffer block = device_block(16);
    const core::BufferView nowhere{nullptr, 16, {}};
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { stream.copy(block.view(), nowhere); }), HasSubstr("source"));
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { stream.copy(nowhere, block.view()); }),
                HasSubstr("destination"));
    EXPECT_THROW(stream.fill(nowhere, 0), core::InvalidArgument);
}

TEST_F(CudaStream, CopyAndFillOfNothingDoNothing) {
    const Stream stream(gpu());
    stream.copy({}, {});
    stream.copy_unchecked(nullptr, nullptr, 0);
    stream.fill({}, 7);
    EXPECT_EQ(fake_.calls("cudaMemcpyAsync") + fake_.calls("cudaMemsetAsync"), 0u);
}

TEST_F(CudaStream, FillsWithAByte) {
    const Stream stream(gpu());
    const core::Buffer block = pinned_block(64);
    std::memset(block.data(), 0, 64);
    stream.fill(block.view().slice(8, 16), 0xAB);
    stream.synchronize();
    const auto* bytes = static_cast<const unsigned char*>(block.data());
    EXPECT_EQ(bytes[7], 0);
    EXPECT_THAT(std::vector<int>(bytes + 8, bytes + 24), Each(0xAB));
    EXPECT_EQ(bytes[24], 0);
}

TEST_F(CudaStream, DoesNotWaitForWhatItIsGiven) {
    const Stream stream(gpu());
    const core::Buffer block = device_block(4), pinned = pinned_block(4);
    fake_.hold();
    stream.copy(block.view(), pinned.view());
    EXPECT_FALSE(stream.done());
    EXPECT_EQ(fake_.copies().count, 0u);
    EXPECT_EQ(fake_.step(10), 1u);
    EXPECT_TRUE(stream.done());
}

TEST_F(CudaStream, AskingWhetherItIsDoneLeavesNoErrorBehind) {
    const Stream stream(gpu());
    fake_.hold();
    ASSERT_EQ(fake_.enqueue(stream.handle(), [] {}), 0);
    EXPECT_FALSE(stream.done());
    EXPECT_EQ(library_->api().GetLastError(), cudaSuccess);
    fake_.release();
}

TEST_F(CudaStream, SynchronizeWaitsUntilAllOfItIsDone) {
    const Stream stream(gpu());
    fake_.hold();
    std::vector<int> order;
    ASSERT_EQ(fake_.enqueue(stream.handle(), [&] { order.push_back(1); }), 0);
    ASSERT_EQ(fake_.enqueue(stream.handle(), [&] { order.push_back(2); }), 0);
    std::thread stepper([&] {
        fake_.step(1);
        fake_.step(1);
    });
    stream.synchronize();
    EXPECT_THAT(order, ElementsAre(1, 2));
    stepper.join();
}

TEST_F(CudaStream, WaitsForAnEventOfAnother) {
    const Stream first(gpu()), second(gpu());
    const Event event(gpu());
    std::vector<int> order;
    fake_.hold();
    ASSERT_EQ(fake_.enqueue(first.handle(), [&] { order.push_back(1); }), 0);
    event.record(first);
    second.wait(event);
    ASSERT_EQ(fake_.enqueue(second.handle(), [&] { order.push_back(2); }), 0);
    EXPECT_EQ(fake_.step(10, second.handle()), 0u);
    fake_.release();
    EXPECT_THAT(order, ElementsAre(1, 2));
}

TEST_F(CudaStream, PriorityBeyondWhatTheDeviceHasIsCapped) {
    const Stream urgent(gpu(), -100), patient(gpu(), 100);
    EXPECT_TRUE(urgent.done());
    EXPECT_TRUE(patient.done());
}

TEST_F(CudaStream, NullHandleIsTheDefaultStreamOfItsDevice) {
    restart(2);
    const StreamView stream(gpu(1), nullptr);
    const core::Buffer block = device_block(4, 1), pinned = pinned_block(4);
    fake_.hold();
    stream.copy(block.view(), pinned.view());
    EXPECT_FALSE(stream.done());
    EXPECT_TRUE(StreamView(gpu(0), nullptr).done());
    fake_.release();
}

TEST_F(CudaStream, EverythingIsMadeOnItsDevice) {
    restart(2);
    const Stream stream(gpu(1));
    const Event event(gpu(1));
    event.record(stream);  // the fake refuses an event and a stream of different devices
    EXPECT_TRUE(event.done());
    const Stream other(gpu(0));
    EXPECT_THROW(event.record(other), core::CudaError);
}

TEST_F(CudaStream, MovingItLeavesOneOwner) {
    std::optional<Stream> moved;
    {
        Stream stream(gpu());
        moved.emplace(std::move(stream));
        EXPECT_EQ(fake_.live().streams, 1u);
    }
    EXPECT_EQ(fake_.live().streams, 1u);
    moved.reset();
    EXPECT_EQ(fake_.live().streams, 0u);
}

TEST_F(CudaStream, DestroyedBusyItsWorkGoesOn) {
    bool ran = false;
    fake_.hold();
    {
        const Stream stream(gpu());
        ASSERT_EQ(fake_.enqueue(stream.handle(), [&] { ran = true; }), 0);
    }
    EXPECT_FALSE(ran);
    fake_.release();
    EXPECT_TRUE(ran);
}

TEST_F(CudaStream, ThatCannotBeMadeLeavesNothingBehind) {
    fake_.fail("cudaStreamCreateWithPriority", 1, 2);
    EXPECT_THROW(Stream{gpu()}, core::OutOfMemory);
    fake_.fail("cudaEventCreateWithFlags", 1, 999);
    EXPECT_THROW(Event{gpu()}, core::CudaError);
}

TEST_F(CudaStream, FailureOfItsWorkReachesWhoeverWaits) {
    const Stream stream(gpu());
    const Event event(gpu());
    fake_.fail("execute", 1, 719, true);
    ASSERT_EQ(fake_.enqueue(stream.handle(), [] {}), 0);
    try {
        stream.synchronize();
        FAIL() << "nothing was thrown";
    } catch (const core::CudaError& error) {
        EXPECT_EQ(error.code(), 719);
        EXPECT_TRUE(error.device_lost());
    }
    EXPECT_THROW(event.record(stream), core::CudaError);
    EXPECT_EQ(event.query(), 719);
    EXPECT_THROW(event.done(), core::CudaError);
    const core::testing::LogCapture log;  // of the destructors
}

TEST_F(CudaStream, DestructorsOnALostDeviceLogOnce) {
    const core::testing::LogCapture log;
    {
        const Stream stream(gpu());
        const Event event(gpu());
        fake_.fail("execute", 1, 700, true);
        ASSERT_EQ(fake_.enqueue(stream.handle(), [] {}), 0);
    }
    EXPECT_THAT(log.messages(), ElementsAre(HasSubstr("cudaErrorIllegalAddress")));
}

TEST_F(CudaStream, ObjectsOfTheParentAreLeftAloneInAForkedChild) {
    const Stream stream(gpu());
    const Event event(gpu());
    const pid_t child = fork();
    if (child == 0) {
        const std::uint64_t calls = fake_.calls("cudaStreamDestroy") + fake_.calls("cudaEventDestroy");
        {
            auto* dead_stream = const_cast<Stream*>(&stream);
            auto* dead_event = const_cast<Event*>(&event);
            dead_event->~Event();
            dead_stream->~Stream();
        }
        _exit(fake_.calls("cudaStreamDestroy") + fake_.calls("cudaEventDestroy") == calls ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

class CudaEvent : public Simulated {};

TEST_F(CudaEvent, IsReachedWhenTheStreamComesThere) {
    const Stream stream(gpu());
    const Event event(gpu());
    EXPECT_TRUE(event.done()) << "none was recorded";
    fake_.hold();
    ASSERT_EQ(fake_.enqueue(stream.handle(), [] {}), 0);
    event.record(stream);
    EXPECT_EQ(event.query(), 600);
    EXPECT_EQ(fake_.step(1), 1u);
    EXPECT_FALSE(event.done());
    EXPECT_EQ(library_->api().GetLastError(), cudaSuccess) << "asking leaves no error behind";
    EXPECT_EQ(fake_.step(1), 1u);
    EXPECT_TRUE(event.done());
    EXPECT_EQ(event.query(), 0);
}

TEST_F(CudaEvent, QueryIsOneCall) {
    const Event event(gpu());
    const char* calls[] = {"cudaGetDevice", "cudaSetDevice", "cudaGetLastError", "cudaEventQuery"};
    std::uint64_t before = 0, after = 0;
    for (const char* call : calls) before += fake_.calls(call);
    EXPECT_EQ(event.query(), 0);
    for (const char* call : calls) after += fake_.calls(call);
    EXPECT_EQ(after, before + 1);
}

TEST_F(CudaEvent, SynchronizeWaitsForTheLastRecord) {
    const Stream stream(gpu());
    const Event event(gpu(), Event::Kind::blocking);
    fake_.hold();
    event.record(stream);
    bool ran = false;
    ASSERT_EQ(fake_.enqueue(stream.handle(), [&] { ran = true; }), 0);
    event.record(stream);
    std::thread stepper([&] { fake_.step(3); });
    event.synchronize();
    EXPECT_TRUE(ran);
    stepper.join();
}

TEST_F(CudaEvent, TellsTheTimeBetweenTwo) {
    const Stream stream(gpu());
    const Event begin(gpu(), Event::Kind::timing), end(gpu(), Event::Kind::timing);
    fake_.set_cost(std::chrono::nanoseconds(0));
    begin.record(stream);
    fake_.advance(std::chrono::microseconds(250));
    end.record(stream);
    EXPECT_NEAR(static_cast<double>(end.elapsed_since(begin).count()), 250000, 20);
}

TEST_F(CudaEvent, OfAnotherKindTellsNoTime) {
    const Stream stream(gpu());
    const Event begin(gpu()), end(gpu());
    begin.record(stream);
    end.record(stream);
    EXPECT_THAT(message_of<core::CudaError>([&] { (void)end.elapsed_since(begin); }),
                HasSubstr("cudaEventElapsedTime on cuda:0"));
}

TEST_F(CudaEvent, MovingItLeavesOneOwner) {
    {
        Event event(gpu());
        const Event moved(std::move(event));
        EXPECT_TRUE(moved.done());
        EXPECT_EQ(fake_.live().events, 1u);
    }
    EXPECT_EQ(fake_.live().events, 0u);
}

TEST_F(CudaEvent, HandleForOtherProcessesIsRefusedInItsOwn) {
    const Event event(gpu(), Event::Kind::shared);
    const IpcEventHandle handle = event.ipc_handle();
    EXPECT_THAT(message_of<core::CudaError>([&] { const Event mine(gpu(), handle); }),
                HasSubstr("cudaIpcOpenEventHandle"));
}

}  // namespace
}  // namespace trtlab::cuda::test
