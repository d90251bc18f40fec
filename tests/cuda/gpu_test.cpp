// What only a GPU can show. Nothing here needs a kernel: copies, fills and graphs of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <latch>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "api.hpp"
#include "simulated.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/topology.hpp"
#include "trtlab/cuda/completion_queue.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/nvtx.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::Each;
using testing::HasSubstr;
using testing::StartsWith;

constexpr std::size_t kMiB = std::size_t{1} << 20;

core::Buffer device_block(const Device& gpu, std::size_t size) { return {std::make_shared<DeviceMemory>(gpu), size}; }
core::Buffer pinned_block(const Device& gpu, std::size_t size) { return {std::make_shared<PinnedMemory>(gpu), size}; }

unsigned char* bytes_of(const core::Buffer& buffer) { return static_cast<unsigned char*>(buffer.data()); }

/// Bytes in which a copy that is late, short or shifted shows.
void fill_with_pattern(const core::Buffer& buffer, unsigned seed) {
    unsigned value = seed;
    for (std::size_t i = 0; i < buffer.size_bytes(); ++i) {
        value = value * 1664525u + 1013904223u;
        bytes_of(buffer)[i] = static_cast<unsigned char>(value >> 24);
    }
}

bool same(const core::Buffer& a, const core::Buffer& b) {
    return a.size_bytes() == b.size_bytes() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}

TEST_F(Gpu, TellsWhatItIs) {
    const Device device = gpu();
    const DeviceProperties& properties = device.properties();
    EXPECT_NE(properties.name, "");
    EXPECT_THAT(properties.uuid, StartsWith("GPU-"));
    EXPECT_EQ(properties.uuid.size(), 40u);
    EXPECT_EQ(Device::named(library_, "cuda:" + properties.uuid).ordinal(), 0);
    EXPECT_GE(properties.compute_major, 5);
    EXPECT_GT(properties.multiprocessors, 0);
    EXPECT_GT(properties.l2_bytes, 0u);
    EXPECT_GT(properties.copy_engines, 0);
    EXPECT_EQ(std::count(properties.pci_bus_id.begin(), properties.pci_bus_id.end(), ':'), 2);
    EXPECT_TRUE(core::Topology::system().cpus().contains(properties.cpus));
    const Device::Memory memory = device.memory();
    EXPECT_GT(memory.free_bytes, 0u);
    EXPECT_LE(memory.free_bytes, memory.total_bytes);
    EXPECT_NEAR(static_cast<double>(properties.total_memory_bytes), static_cast<double>(memory.total_bytes),
                0.05 * static_cast<double>(memory.total_bytes));
}

TEST_F(Gpu, NvmlKnowsItByItsUuid) {
    const Nvml nvml;
    if (!nvml.available()) GTEST_SKIP() << "no NVML here";
    const Device device = gpu();
    EXPECT_GT(nvml.total_memory_bytes(device.properties().uuid), 0u);
    const Device::Load load = device.load();
    EXPECT_GE(load.temperature_celsius, -1);
    EXPECT_LE(load.gpu_percent, 100);
    EXPECT_TRUE(load.power_limit_watts < 0 || load.power_watts < 2 * load.power_limit_watts) << load.power_watts;
}

TEST_F(Gpu, ThreadCanBeBoundNearToItWhereThatIsKnown) {
    const Device device = gpu();
    std::thread([&] {
        const std::size_t before = core::usable_cpus();
        const bool bound = device.bind_this_thread();
        EXPECT_LE(core::usable_cpus(), before);
        EXPECT_TRUE(bound || core::usable_cpus() == before);
    }).join();
}

TEST_F(Gpu, CopiesGoThereBetweenAndBack) {
    const Device device = gpu();
    const Stream stream(device);
    const core::Buffer sent = pinned_block(device, kMiB), received = pinned_block(device, kMiB);
    const core::Buffer first = device_block(device, kMiB), second = device_block(device, kMiB);
    for (unsigned seed = 1; seed <= 3; ++seed) {
        fill_with_pattern(sent, seed);
        std::memset(received.data(), 0, kMiB);
        stream.copy(first.view(), sent.view());
        stream.copy(second.view(), first.view());
        stream.copy(received.view(), second.view());
        stream.synchronize();
        EXPECT_TRUE(same(sent, received));
    }
}

TEST_F(Gpu, MemoryThatIsNotPinnedIsCopiedBeforeTheCallReturns) {
    const Device device = gpu();
    const Stream stream(device);
    std::vector<unsigned char> bytes(kMiB);
    std::iota(bytes.begin(), bytes.end(), 0);
    const std::vector<unsigned char> expected = bytes;
    const core::Buffer block = device_block(device, kMiB);
    stream.copy(block.view(), {bytes.data(), kMiB, {}});
    std::fill(bytes.begin(), bytes.end(), 0);
    stream.copy({bytes.data(), kMiB, {}}, block.view());
    stream.synchronize();
    EXPECT_EQ(bytes, expected);
}

TEST_F(Gpu, FillsPartOfABlock) {
    const Device device = gpu();
    const Stream stream(device);
    const core::Buffer block = device_block(device, 300), host = pinned_block(device, 300);
    stream.fill(block.view(), 1);
    stream.fill(block.view().slice(100, 100), 2);
    stream.copy(host.view(), block.view());
    stream.synchronize();
    const unsigned char* bytes = bytes_of(host);
    EXPECT_THAT(std::vector<int>(bytes, bytes + 100), Each(1));
    EXPECT_THAT(std::vector<int>(bytes + 100, bytes + 200), Each(2));
    EXPECT_THAT(std::vector<int>(bytes + 200, bytes + 300), Each(1));
}

TEST_F(Gpu, StreamsWaitForEventsOfEachOther) {
    const Device device = gpu();
    const Stream first(device), second(device, -1);
    const Event ready(device), taken(device);
    const core::Buffer sent = pinned_block(device, 16 * kMiB), received = pinned_block(device, 16 * kMiB);
    const core::Buffer block = device_block(device, 16 * kMiB);
    for (unsigned seed = 1; seed <= 5; ++seed) {
        fill_with_pattern(sent, seed);
        first.copy(block.view(), sent.view());
        ready.record(first);
        second.wait(ready);
        second.copy(received.view(), block.view());
        taken.record(second);
        taken.synchronize();
        EXPECT_TRUE(taken.done());
        EXPECT_TRUE(same(sent, received));
    }
    EXPECT_TRUE(first.done());
    EXPECT_TRUE(second.done());
}

TEST_F(Gpu, AskingWhetherWorkIsDoneLeavesNoErrorBehind) {
    const Device device = gpu();
    const Stream stream(device);
    const Event event(device);
    const core::Buffer sent = pinned_block(device, 64 * kMiB), block = device_block(device, 64 * kMiB);
    stream.copy(block.view(), sent.view());
    event.record(stream);
    while (!event.done() || !stream.done()) EXPECT_EQ(library_->api().GetLastError(), cudaSuccess);
    EXPECT_EQ(library_->api().GetLastError(), cudaSuccess);
}

TEST_F(Gpu, EventsTellTheTimeOfACopy) {
    const Device device = gpu();
    const Stream stream(device);
    const Event begin(device, Event::Kind::timing), end(device, Event::Kind::timing);
    const core::Buffer sent = pinned_block(device, 16 * kMiB), block = device_block(device, 16 * kMiB);
    begin.record(stream);
    stream.copy(block.view(), sent.view());
    end.record(stream);
    end.synchronize();
    EXPECT_GT(end.elapsed_since(begin).count(), 0);
    EXPECT_LT(end.elapsed_since(begin), std::chrono::seconds(10));
    const Event plain(device);
    plain.record(stream);
    EXPECT_THROW((void)plain.elapsed_since(begin), core::CudaError);
}

TEST_F(Gpu, GraphRunsWhatWasRecordedWithTheValuesOfTheLaunch) {
    const Device device = gpu();
    const Stream stream(device), side(device);
    const Event forked(device), joined(device);
    const core::Buffer in = pinned_block(device, kMiB), out = pinned_block(device, kMiB);
    const core::Buffer first = device_block(device, kMiB), second = device_block(device, kMiB);
    stream.begin_capture();
    stream.copy(first.view(), in.view());
    forked.record(stream);
    side.wait(forked);
    side.copy(second.view(), first.view());
    joined.record(side);
    stream.wait(joined);
    stream.copy(out.view(), second.view());
    const Graph graph = stream.end_capture();
    EXPECT_EQ(graph.nodes(), 3u);
    graph.upload(stream);
    for (unsigned seed = 1; seed <= 3; ++seed) {
        fill_with_pattern(in, seed);
        std::memset(out.data(), 0, kMiB);
        graph.launch(stream);
        stream.synchronize();
        EXPECT_TRUE(same(in, out));
    }
}

TEST_F(Gpu, RecordingThatBreaksLeavesTheStreamUsable) {
    const Device device = gpu();
    const Stream stream(device);
    stream.begin_capture();
    EXPECT_THROW(stream.synchronize(), core::CudaError);
    stream.abandon_capture();
    EXPECT_EQ(library_->api().GetLastError(), cudaSuccess);
    stream.begin_capture();
    EXPECT_THROW(stream.synchronize(), core::CudaError);
    EXPECT_THROW((void)stream.end_capture(), core::CudaError);
    const core::Buffer block = device_block(device, 4), host = pinned_block(device, 4);
    stream.fill(block.view(), 9);
    stream.copy(host.view(), block.view());
    stream.synchronize();
    EXPECT_EQ(bytes_of(host)[3], 9);
}

TEST_F(Gpu, AnotherThreadMayAllocateWhileOneRecords) {
    const Device device = gpu();
    const Stream stream(device);
    const core::Buffer block = device_block(device, 64);
    stream.begin_capture();
    stream.fill(block.view(), 1);
    std::thread([&] { EXPECT_TRUE(device_block(device, kMiB)); }).join();
    EXPECT_EQ(stream.end_capture().nodes(), 1u);
}

TEST_F(Gpu, MemoryTellsWhereItIs) {
    const Device device = gpu();
    const core::Buffer on_device = device_block(device, 100), pinned = pinned_block(device, 100);
    const core::Buffer managed(std::make_shared<ManagedMemory>(device), 100);
    int on_the_stack = 0;
    EXPECT_EQ(device_of(*library_, on_device.data()).to_string(), "cuda:0");
    EXPECT_EQ(device_of(*library_, pinned.data()).to_string(), "cuda_host");
    EXPECT_EQ(device_of(*library_, managed.data()).to_string(), "cuda_managed:0");
    EXPECT_EQ(device_of(*library_, &on_the_stack).to_string(), "cpu");
}

TEST_F(Gpu, OutOfMemorySaysWhatIsFreeAndTheDeviceGoesOn) {
    const Device device = gpu();
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { device_block(device, std::size_t{1} << 46); }),
                testing::AllOf(HasSubstr("device memory of cuda:0"), HasSubstr("bytes of cuda:0 are free")));
    EXPECT_EQ(library_->api().GetLastError(), cudaSuccess);
    EXPECT_TRUE(device_block(device, kMiB));
}

TEST_F(Gpu, ManagedMemoryMovesToTheDeviceAndBack) {
    const Device device = gpu();
    if (!device.properties().concurrent_managed_access)
        GTEST_SKIP() << "no GPU that shares managed memory with the CPU";
    const Stream stream(device);
    for (const auto advice :
         {ManagedMemory::Advice::none, ManagedMemory::Advice::read_mostly, ManagedMemory::Advice::prefer_device}) {
        const core::Buffer managed(std::make_shared<ManagedMemory>(device, advice), 4 * kMiB);
        const core::Buffer copy = device_block(device, 4 * kMiB), host = pinned_block(device, 4 * kMiB);
        fill_with_pattern(managed, 7);
        ManagedMemory::prefetch_to_device(managed.view(), stream);
        stream.copy(copy.view(), managed.view());
        stream.copy(host.view(), copy.view());
        ManagedMemory::prefetch_to_host(managed.view(), stream);
        stream.synchronize();
        EXPECT_TRUE(same(managed, host));
    }
}

TEST_F(Gpu, StreamOrderedMemoryMayBeUsedBetweenItsAllocationAndItsReturn) {
    const Device device = gpu();
    if (!device.properties().memory_pools) GTEST_SKIP() << "no GPU with memory pools";
    const Stream stream(device);
    const auto memory = std::make_shared<StreamOrderedMemory>(stream);
    const core::Buffer host = pinned_block(device, kMiB), back = pinned_block(device, kMiB);
    for (unsigned seed = 1; seed <= 20; ++seed) {
        stream.synchronize();
        EXPECT_TRUE(seed == 1 || same(host, back));
        fill_with_pattern(host, seed);
        const core::Buffer block(memory, kMiB);
        stream.copy(block.view(), host.view());
        stream.copy(back.view(), block.view());
    }
    stream.synchronize();
    EXPECT_TRUE(same(host, back));
}

class Counted final : public Completion {
public:
    Counted(std::latch& done, const core::Buffer& sent, const core::Buffer& received, std::atomic<int>& wrong)
        : done_(done), sent_(sent), received_(received), wrong_(wrong) {}
    void reached(int status) noexcept override {
        if (status != 0 || !same(sent_, received_)) ++wrong_;
        done_.count_down();
    }

private:
    std::latch& done_;
    const core::Buffer& sent_;
    const core::Buffer& received_;
    std::atomic<int>& wrong_;
};

TEST_F(Gpu, CompletionsComeWhenTheDataAreThere) {
    const Device device = gpu();
    CompletionQueue queue(device);
    constexpr std::size_t kStreams = 4;
    std::vector<std::unique_ptr<Stream>> streams;
    std::vector<std::unique_ptr<Event>> events;
    std::vector<core::Buffer> sent, received, blocks;
    for (std::size_t i = 0; i < kStreams; ++i) {
        streams.push_back(std::make_unique<Stream>(device));
        events.push_back(std::make_unique<Event>(device));
        sent.push_back(pinned_block(device, kMiB));
        received.push_back(pinned_block(device, kMiB));
        blocks.push_back(device_block(device, kMiB));
    }
    std::atomic<int> wrong{0};
    for (unsigned round = 0; round < 50; ++round) {
        std::latch done(kStreams);
        std::vector<std::unique_ptr<Counted>> completions;
        for (std::size_t i = 0; i < kStreams; ++i) {
            fill_with_pattern(sent[i], round * 10 + static_cast<unsigned>(i));
            streams[i]->copy(blocks[i].view(), sent[i].view());
            streams[i]->copy(received[i].view(), blocks[i].view());
            events[i]->record(*streams[i]);
            completions.push_back(std::make_unique<Counted>(done, sent[i], received[i], wrong));
            queue.watch(*events[i], *completions.back());
        }
        done.wait();
    }
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(queue.pending(), 0u);
}

TEST_F(Gpu, RangesMayBeOpenedWithOrWithoutAProfiler) {
    const NvtxRange outer("test");
    const NvtxRange inner("copy");
    const Stream stream(gpu());
    stream.synchronize();
}

constexpr const char* kHandle = "TRTLAB_TEST_IPC_HANDLE";

std::string hex_of(const void* bytes, std::size_t size) {
    std::string text;
    for (std::size_t i = 0; i < size; ++i) {
        const unsigned byte = static_cast<const unsigned char*>(bytes)[i];
        text += "0123456789abcdef"[byte >> 4];
        text += "0123456789abcdef"[byte & 15];
    }
    return text;
}

/// The other process of the test below.
TEST(GpuChild, DISABLED_AddsToTheMemoryOfItsParent) {
    const std::string text = std::getenv(kHandle);
    IpcMemoryHandle handle;
    handle.size_bytes = kMiB;
    for (std::size_t i = 0; i < handle.bytes.size(); ++i)
        handle.bytes[i] = static_cast<std::byte>(std::stoi(text.substr(2 * i, 2), nullptr, 16));
    const Device device(real_library(), 0);
    const IpcMemory memory(device, handle);
    const Stream stream(device);
    const core::Buffer host = pinned_block(device, kMiB), expected = pinned_block(device, kMiB);
    stream.copy(host.view(), memory.view());
    stream.synchronize();
    fill_with_pattern(expected, 1);
    ASSERT_TRUE(same(host, expected));
    fill_with_pattern(host, 2);
    stream.copy(memory.view(), host.view());
    stream.synchronize();
}

TEST_F(Gpu, MemoryIsSharedWithAnotherProcessAndNotWithItsOwn) {
    const Device device = gpu();
    const Stream stream(device);
    const core::Buffer block = device_block(device, kMiB);
    const core::Buffer host = pinned_block(device, kMiB), expected = pinned_block(device, kMiB);
    fill_with_pattern(host, 1);
    stream.copy(block.view(), host.view());
    stream.synchronize();
    const IpcMemoryHandle handle = ipc_handle(block.view(), device);
    EXPECT_THROW(IpcMemory(device, handle), core::CudaError);

    // CUDA does not survive a fork: the child becomes a program of its own before it uses any.
    setenv(kHandle, hex_of(handle.bytes.data(), handle.bytes.size()).c_str(), 1);
    const pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "cuda_test", "--gtest_also_run_disabled_tests", "--gtest_filter=GpuChild.*",
              "--gtest_brief=1", nullptr);
        _exit(127);
    }
    unsetenv(kHandle);
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    fill_with_pattern(expected, 2);
    stream.copy(host.view(), block.view());
    stream.synchronize();
    EXPECT_TRUE(same(host, expected));
}

TEST_F(Gpu, DevicesReachEachOthersMemory) {
    if (library_->device_count() < 2) GTEST_SKIP() << "no second CUDA device";
    const Device first = gpu(0), second = gpu(1);
    EXPECT_NE(first.properties().uuid, second.properties().uuid);
    const core::Buffer sent = pinned_block(first, kMiB), received = pinned_block(second, kMiB);
    const core::Buffer here = device_block(first, kMiB), there = device_block(second, kMiB);
    fill_with_pattern(sent, 5);
    const Stream stream(first), other(second);
    const Event ready(first);
    stream.copy(here.view(), sent.view());
    stream.copy(there.view(), here.view());
    ready.record(stream);
    other.wait(ready);
    other.copy(received.view(), there.view());
    other.synchronize();
    EXPECT_TRUE(same(sent, received));
    EXPECT_EQ(device_of(*library_, there.data()).index, 1);
    (void)first.can_access(second);
}

}  // namespace
}  // namespace trtlab::cuda::test
