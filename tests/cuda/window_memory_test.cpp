#include "trtlab/cuda/window_memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <thread>
#include <vector>

#include "core/yield_until.hpp"
#include "simulated.hpp"
#include "trtlab/core/window_stream.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda::test {
namespace {

using namespace std::chrono_literals;
using core::Window;
using core::WindowStream;
using core::testing::yield_until;
using testing::HasSubstr;
using AtEnd = WindowStream::AtEnd;

WindowStream::Options ints(std::size_t window, std::size_t overlap, std::size_t windows = 4) {
    return {.window = window, .overlap = overlap, .element_bytes = sizeof(int), .windows = windows};
}

std::vector<int> counting(int begin, int end) {
    std::vector<int> values(static_cast<std::size_t>(end - begin));
    std::iota(values.begin(), values.end(), begin);
    return values;
}

/// The fake GPU's memory is the host's, so that tests can look.
std::vector<int> content(const Window& window) {
    const int* elements = reinterpret_cast<const int*>(window.data());
    return {elements, elements + window.size()};
}

const Event& event_of(const core::Ref<const core::Fence>& fence) {
    return dynamic_cast<const EventFence&>(*fence).event();
}

class CudaWindows : public Simulated {
protected:
    std::unique_ptr<WindowStream> make(const WindowStream::Options& options) {
        auto memory = std::make_unique<WindowMemory>(gpu(), options);
        ring_ = memory->stream().handle();
        return std::make_unique<WindowStream>(options, std::move(memory));
    }
    StreamHandle ring_ = nullptr;  // the last one's stream
};

TEST_F(CudaWindows, AreHandedOutBeforeTheirBytesAreThereWithAFenceBehindThem) {
    const auto stream = make(ints(4, 2));
    fake_.hold();
    std::vector<int> values = counting(0, 6);
    ASSERT_EQ(stream->write(std::span(values), 0s), 6u);
    std::fill(values.begin(), values.end(), -1);  // the source is the caller's again
    const Window first = stream->next(0s), second = stream->next(0s);
    EXPECT_EQ(first.device(), gpu().core_device());
    EXPECT_FALSE(event_of(second.fence()).done());
    fake_.release();
    EXPECT_TRUE(event_of(second.fence()).done());
    EXPECT_EQ(content(first), counting(0, 4));
    EXPECT_EQ(content(second), counting(2, 6));
    EXPECT_EQ(fake_.copies().pageable, 0u) << "from pageable memory CUDA's copy would wait for the stream";
}

TEST_F(CudaWindows, AreTensorsThatAModelWaitsForInItsStream) {
    const auto stream = make(ints(6, 2));
    fake_.hold();
    const std::vector<int> values = counting(0, 6);
    ASSERT_EQ(stream->write(std::span(values), 0s), 6u);
    const core::Tensor tensor = stream->next(0s).tensor(core::DType::int32, {3, 2});
    EXPECT_EQ(tensor.device(), gpu().core_device());
    const Stream model(gpu());
    model.wait(event_of(tensor.fence()));
    int seen = -1;
    fake_.enqueue(model.handle(), [&] { seen = tensor.data_as<int>()[5]; });
    EXPECT_EQ(fake_.step(100, model.handle()), 0u);
    fake_.release();
    EXPECT_EQ(seen, 5);
    EXPECT_EQ(stream->stats().in_flight, 1u);
}

TEST_F(CudaWindows, AreOverwrittenOnlyBehindTheFenceThatTheyAreGivenBackWith) {
    const auto stream = make(ints(4, 0, 2));
    const Stream reading(gpu());
    fake_.hold();
    const std::vector<int> values = counting(0, 8), later = counting(8, 16);
    ASSERT_EQ(stream->write(std::span(values), 0s), 8u);
    std::vector<std::vector<int>> seen(2);
    for (int i = 0; i < 2; ++i) {
        Window window = stream->next(0s);
        reading.wait(event_of(window.fence()));
        const int* data = reinterpret_cast<const int*>(window.data());
        fake_.enqueue(reading.handle(), [&seen, i, data] { seen[static_cast<std::size_t>(i)].assign(data, data + 4); });
        window.overwrite_after(EventFence::record(reading));
    }
    // No thread waits: the next lap is written before the GPU has done anything.
    ASSERT_EQ(stream->write(std::span(later), 0s), 8u);
    fake_.step(100, ring_);
    EXPECT_TRUE(seen[0].empty());
    EXPECT_GT(fake_.queued(), 0u);
    fake_.release();
    EXPECT_EQ(seen[0], counting(0, 4));
    EXPECT_EQ(seen[1], counting(4, 8));
    EXPECT_EQ(content(stream->next(0s)), counting(8, 12));
}

TEST_F(CudaWindows, AWriteWaitsForTheReadersOfWhatItOverwritesAndForNoOthers) {
    const auto stream = make(ints(4, 0, 2));
    const Stream reading(gpu());
    std::vector<int> values = counting(0, 8);
    ASSERT_EQ(stream->write(std::span(values), 0s), 8u);
    Window first = stream->next(0s), second = stream->next(0s);
    fake_.hold();
    fake_.enqueue(reading.handle(), [] {});
    second.overwrite_after(EventFence::record(reading));
    first.release();
    second.release();
    values = counting(8, 12);
    ASSERT_EQ(stream->write(std::span(values), 0s), 4u);
    const Window third = stream->next(0s);
    fake_.step(100, ring_);
    EXPECT_TRUE(event_of(third.fence()).done()) << "the second window's reader is not done, and need not be";
    fake_.release();
}

TEST_F(CudaWindows, AreWrittenInPlaceInAStreamOfTheCallers) {
    const auto stream = make(ints(4, 2));
    const Stream mine(gpu());
    core::Buffer pinned(std::make_shared<PinnedMemory>(gpu()), 4 * sizeof(int));
    const std::vector<int> values = counting(0, 4);
    std::copy(values.begin(), values.end(), static_cast<int*>(pinned.data()));
    fake_.hold();
    WindowStream::Reservation room = stream->reserve(4, 0s);
    mine.wait(event_of(room.fence()));
    mine.copy({room.data(), room.size_bytes(), gpu().core_device()}, pinned.view());
    room.commit(4, EventFence::record(mine));
    const Window window = stream->next(0s);
    EXPECT_FALSE(event_of(window.fence()).done());
    fake_.step(100, ring_);
    EXPECT_FALSE(event_of(window.fence()).done());
    fake_.release();
    EXPECT_TRUE(event_of(window.fence()).done());
    EXPECT_EQ(content(window), counting(0, 4));
}

TEST_F(CudaWindows, AWriteWaitsForPinnedMemoryNoLongerThanItMay) {
    WindowStream::Options options{.window = 16 << 10, .overlap = 0, .windows = 8, .at_end = AtEnd::pad};
    const auto stream = make(options);  // chunks of 64 KiB
    const std::vector<std::byte> bytes(100, std::byte{1});
    fake_.hold();
    std::size_t writes = 0;
    while (stream->try_write(bytes) > 0) ++writes;
    EXPECT_EQ(writes, 8u);
    EXPECT_EQ(stream->write(bytes, 1ms), 0u);
    EXPECT_THROW(stream->finish(1ms), core::Timeout) << "there is something to pad";
    EXPECT_EQ(stream->stats().written, 800u);
    fake_.release();
    stream->finish();
    const Window last = stream->next(0s);
    EXPECT_EQ(last.valid(), 800u);
    EXPECT_EQ(last.data()[799], std::byte{1});
    EXPECT_EQ(last.data()[800], std::byte{0});
}

TEST_F(CudaWindows, AWriteThatWaitsForPinnedMemoryGoesOnWhenTheGpuHasReadIt) {
    WindowStream::Options options{.window = 16 << 10, .overlap = 0, .windows = 8};
    const auto stream = make(options);
    const std::vector<std::byte> bytes(100);
    for (int round = 0; round < 3; ++round) {
        fake_.hold();
        while (stream->write(bytes, round == 1 ? 1ms : 0ms) > 0) {
        }
        std::jthread producer([&] { EXPECT_EQ(stream->write(bytes), 100u); });
        yield_until([&] { return stream->stats().blocked == 1; });
        fake_.release();
    }
}

TEST_F(CudaWindows, CloseEndsAWaitForPinnedMemory) {
    const auto stream = make({.window = 16 << 10, .overlap = 0, .windows = 8});
    const std::vector<std::byte> bytes(100);
    fake_.hold();
    while (stream->try_write(bytes) > 0) {
    }
    std::jthread producer([&] { EXPECT_THROW(stream->write(bytes), core::Closed); });
    yield_until([&] { return stream->stats().blocked == 1; });
    stream->close();
    producer.join();
    fake_.release();
}

TEST_F(CudaWindows, TakeElementsLargerThanAChunkWouldBe) {
    WindowStream::Options options{.window = 2, .overlap = 1, .element_bytes = 1 << 20, .windows = 1};
    const auto stream = make(options);
    std::vector<std::byte> element(1 << 20, std::byte{3});
    for (int i = 0; i < 4; ++i) {
        ASSERT_EQ(stream->write(element, 0s), 1u);
        if (i > 0) {
            EXPECT_EQ(stream->next(0s).data()[(2 << 20) - 1], std::byte{3});
        }
    }
}

TEST_F(CudaWindows, ACopyThatFailsFailsTheWriteAndTheStreamGoesOn) {
    const auto stream = make(ints(4, 2, 1));
    const std::vector<int> values = counting(0, 4), more = counting(4, 6);
    fake_.fail("cudaMemcpyAsync", 1, 719);
    EXPECT_THAT(message_of<core::CudaError>([&] { stream->write(std::span(values), 0s); }),
                HasSubstr("cudaMemcpyAsync"));
    EXPECT_EQ(stream->stats().written, 0u);
    fake_.fail("cudaEventRecord", 1, 719);
    EXPECT_THROW(stream->write(std::span(values), 0s), core::CudaError);
    ASSERT_EQ(stream->write(std::span(values), 0s), 4u);
    {
        const Stream reading(gpu());
        const Window window = stream->next(0s);
        EXPECT_EQ(content(window), counting(0, 4));
        window.overwrite_after(EventFence::record(reading));
    }
    fake_.fail("cudaStreamWaitEvent", 1, 719);
    EXPECT_THROW(stream->write(std::span(more), 0s), core::CudaError);
    ASSERT_EQ(stream->write(std::span(more), 0s), 2u);
    EXPECT_EQ(content(stream->next(0s)), counting(2, 6));
}

TEST_F(CudaWindows, RefuseMemoryOfAnotherPlace) {
    EXPECT_THAT(message_of<core::InvalidArgument>(
                    [&] { WindowMemory(gpu(), ints(4, 2), std::make_shared<PinnedMemory>(gpu())); }),
                HasSubstr("is not of cuda:0"));
    fake_.set_memory(0, 100);
    EXPECT_THROW(WindowMemory(gpu(), ints(400, 2)), core::OutOfMemory);
}

TEST_F(CudaWindows, MayLieInManagedMemory) {
    const WindowStream::Options options = ints(4, 2);
    WindowStream stream(options,
                        std::make_unique<WindowMemory>(gpu(), options, std::make_shared<ManagedMemory>(gpu())));
    const std::vector<int> values = counting(0, 4);
    ASSERT_EQ(stream.write(std::span(values), 0s), 4u);
    const Window window = stream.next(0s);
    EXPECT_EQ(window.device().type, core::DeviceType::cuda_managed);
    EXPECT_EQ(content(window), counting(0, 4));
}

// As `PredecessorDefect13` in core: there the copies were waited for one by one, and readers not at all.
TEST_F(CudaWindows, PredecessorDefect13MemoryIsGivenBackBehindWhoeverStillReadsIt) {
    auto stream = make(ints(4, 0, 5));
    const Stream reading(gpu());
    fake_.hold();
    const std::vector<int> values = counting(0, 20);
    ASSERT_EQ(stream->write(std::span(values), 0s), 20u);
    std::vector<int> seen;
    for (int i = 0; i < 5; ++i) {
        const Window window = stream->next(0s);
        reading.wait(event_of(window.fence()));
        fake_.enqueue(reading.handle(), [&seen, data = window.data()] {
            const int* elements = reinterpret_cast<const int*>(data);
            seen.insert(seen.end(), elements, elements + 4);
        });
        window.overwrite_after(EventFence::record(reading));
    }
    const auto synchronized = fake_.calls("cudaStreamSynchronize");
    std::jthread destroying([&] { stream.reset(); });
    yield_until([&] { return fake_.calls("cudaStreamSynchronize") > synchronized; });
    EXPECT_EQ(fake_.live().device_blocks, 1u);
    fake_.release();
    destroying.join();
    EXPECT_EQ(seen, counting(0, 20));
    EXPECT_EQ(fake_.live().device_blocks, 0u);
}

/// Work of the ring's and the reader's streams runs whenever chance has it: every reader sees its window.
void run(const FakeCuda& fake, const Device& gpu, std::uint32_t seed) {
    std::mt19937 engine(seed);
    const auto between = [&](std::size_t low, std::size_t high) {
        return std::uniform_int_distribution<std::size_t>(low, high)(engine);
    };
    WindowStream::Options options = ints(between(1, 20), 0, between(1, 4));
    options.overlap = between(0, options.window - 1);
    options.at_end = static_cast<AtEnd>(between(0, 2));
    if (between(0, 1) == 0) {
        options.capacity =
            WindowStream::min_capacity(options.windows, options.window, options.overlap) + between(0, 30);
    }
    const int hop = static_cast<int>(options.window - options.overlap), size = static_cast<int>(between(0, 200));
    WindowStream stream(options, std::make_unique<WindowMemory>(gpu, options));
    const Stream reading(gpu);
    fake.hold();
    int written = 0;
    std::uint64_t windows = 0, wrong = 0;
    for (bool ended = false; !ended;) {
        if (written < size) {
            const std::vector<int> values =
                counting(written, std::min(size, written + static_cast<int>(between(1, 30))));
            written += static_cast<int>(stream.try_write(std::as_bytes(std::span(values))));
        } else {
            try {
                stream.finish(0s);
            } catch (const core::Timeout&) {  // no pinned memory for the padding yet
            }
        }
        while (auto window = stream.try_next()) {
            if ((ended = !*window)) break;
            ++windows;
            reading.wait(event_of(window->fence()));
            const int begin = static_cast<int>(window->index()) * hop;
            const int* data = reinterpret_cast<const int*>(window->data());
            fake.enqueue(reading.handle(), [&wrong, data, begin, valid = window->valid(), of = window->size()] {
                for (std::size_t i = 0; i < of; ++i) wrong += data[i] != (i < valid ? begin + static_cast<int>(i) : 0);
            });
            window->overwrite_after(EventFence::record(reading));
        }
        fake.step(between(0, 6), between(0, 1) == 0 ? reading.handle() : nullptr);
    }
    fake.release();
    EXPECT_EQ(wrong, 0u);
    const int whole = size < static_cast<int>(options.window) ? 0 : (size - static_cast<int>(options.window)) / hop + 1;
    const int covered = whole == 0 ? 0 : (whole - 1) * hop + static_cast<int>(options.window);
    EXPECT_EQ(windows, static_cast<std::uint64_t>(whole + (size > covered && options.at_end != AtEnd::drop ? 1 : 0)));
}

TEST_F(CudaWindows, AreTheSlicesOfWhatWasWrittenInWhateverOrderTheGpuWorks) {
    for (std::uint32_t seed = 0; seed < 150 && !HasFailure(); ++seed) {
        SCOPED_TRACE(seed);
        run(fake_, gpu(), seed);
    }
    EXPECT_GT(fake_.copies().device_to_device, 0u);
}

class GpuWindows : public Gpu {};

TEST_F(GpuWindows, AreTheSlicesOfWhatWasWritten) {
    const WindowStream::Options options{
        .window = 3000, .overlap = 1000, .element_bytes = sizeof(int), .windows = 3, .at_end = AtEnd::pad};
    WindowStream stream(options, std::make_unique<WindowMemory>(gpu(), options));
    const Stream reading(gpu());
    constexpr int kElements = 100'000;
    std::jthread producer([&] {
        const std::vector<int> values = counting(0, kElements);
        EXPECT_EQ(stream.write(std::span(values)), values.size());
        stream.finish();
    });
    core::Buffer copy(std::make_shared<PinnedMemory>(gpu()), 3000 * sizeof(int));
    for (Window& window : stream) {
        reading.wait(event_of(window.fence()));
        reading.copy(copy.view(),
                     window.tensor(core::DType::int32, {3000}).data() != nullptr
                         ? core::BufferView{const_cast<std::byte*>(window.data()), window.size_bytes(), window.device()}
                         : core::BufferView{});
        window.overwrite_after(EventFence::record(reading));
        const std::uint64_t index = window.index();
        const std::size_t valid = window.valid();
        window.release();
        reading.synchronize();
        const int* elements = static_cast<const int*>(copy.data());
        for (std::size_t i = 0; i < 3000; ++i) {
            ASSERT_EQ(elements[i], i < valid ? static_cast<int>(index * 2000 + i) : 0) << "window " << index;
        }
    }
    EXPECT_EQ(stream.stats().written, static_cast<std::uint64_t>(kElements));
}

}  // namespace
}  // namespace trtlab::cuda::test
