#include "trtlab/cuda/memory.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "api.hpp"
#include "core/log_capture.hpp"
#include "simulated.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class CudaMemory : public Simulated {};

TEST_F(CudaMemory, IsNamedAndPlaced) {
    const Stream stream(gpu());
    const DeviceMemory device(gpu());
    EXPECT_EQ(device.name(), "device memory of cuda:0");
    EXPECT_EQ(device.device(), (core::Device{core::DeviceType::cuda, 0}));
    EXPECT_EQ(device.gpu().ordinal(), 0);
    const PinnedMemory pinned(gpu());
    EXPECT_EQ(pinned.name(), "pinned host memory near cuda:0");
    EXPECT_EQ(pinned.device(), (core::Device{core::DeviceType::cuda_host, 0}));
    const ManagedMemory managed(gpu());
    EXPECT_EQ(managed.name(), "managed memory of cuda:0");
    EXPECT_EQ(managed.device(), (core::Device{core::DeviceType::cuda_managed, 0}));
    const StreamOrderedMemory ordered(stream);
    EXPECT_EQ(ordered.name(), "stream-ordered memory of cuda:0");
    EXPECT_EQ(ordered.device(), (core::Device{core::DeviceType::cuda, 0}));
}

TEST_F(CudaMemory, IsTakenOnItsOwnDevice) {
    restart(2);
    const auto memory = std::make_shared<DeviceMemory>(gpu(1));
    const core::Buffer block(memory, 100);
    EXPECT_EQ(device_of(*library_, block.data()), (core::Device{core::DeviceType::cuda, 1}));
    int current = -1;
    library_->api().GetDevice(&current);
    EXPECT_EQ(current, 0);
}

TEST_F(CudaMemory, ExhaustionSaysHowMuchOfWhatWasFree) {
    fake_.set_memory(0, 1000);
    const core::Buffer some(std::make_shared<DeviceMemory>(gpu()), 300);
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { DeviceMemory(gpu()).allocate(800); }),
                AllOf(HasSubstr("device memory of cuda:0"), HasSubstr("800 bytes"), HasSubstr("700 of 1000 bytes"),
                      HasSubstr("cudaMalloc")));
    EXPECT_EQ(library_->api().GetLastError(), cudaSuccess);
    EXPECT_NO_THROW(core::Buffer(std::make_shared<DeviceMemory>(gpu()), 700));
}

TEST_F(CudaMemory, ExhaustionOfAResourceLeavesTheOthers) {
    fake_.set_pinned_memory(1000);
    EXPECT_THAT(
        message_of<core::OutOfMemory>([&] { PinnedMemory(gpu()).allocate(1001); }),
        AllOf(HasSubstr("pinned host memory near cuda:0"), HasSubstr("1001 bytes"), HasSubstr("cudaHostAlloc")));
    EXPECT_NO_THROW(core::Buffer(std::make_shared<DeviceMemory>(gpu()), 2000));
}

TEST_F(CudaMemory, ALostDeviceIsToldFromAFullOne) {
    fake_.fail("cudaMalloc", 1, 700, true);
    try {
        DeviceMemory(gpu()).allocate(10);
        FAIL() << "nothing was thrown";
    } catch (const core::CudaError& error) {
        EXPECT_TRUE(error.device_lost());
    }
}

TEST_F(CudaMemory, AFreeThatFailsIsLogged) {
    const core::testing::LogCapture log;
    violations_ = 1;
    int none = 0;
    DeviceMemory(gpu()).deallocate(&none, 4);
    EXPECT_THAT(log.messages(), ElementsAre(AllOf(HasSubstr("cudaFree on cuda:0"), HasSubstr("invalid argument"))));
}

TEST_F(CudaMemory, ManagedTakesTheAdviceThatItWasMadeWith) {
    const core::Buffer none(std::make_shared<ManagedMemory>(gpu()), 100);
    const core::Buffer read(std::make_shared<ManagedMemory>(gpu(), ManagedMemory::Advice::read_mostly), 100);
    const core::Buffer near(std::make_shared<ManagedMemory>(gpu(), ManagedMemory::Advice::prefer_device), 100);
    EXPECT_EQ(fake_.managed_state(none.data()), 0u);
    EXPECT_EQ(fake_.managed_state(read.data()), 1u);
    EXPECT_EQ(fake_.managed_state(near.data()), 2u);
}

TEST_F(CudaMemory, AdviceThatFailsGivesTheBlockBack) {
    fake_.fail("cudaMemAdvise", 1, 1);
    EXPECT_THAT(
        message_of<core::CudaError>([&] { ManagedMemory(gpu(), ManagedMemory::Advice::read_mostly).allocate(100); }),
        HasSubstr("cudaMemAdvise on cuda:0"));
    EXPECT_EQ(fake_.live().managed_blocks, 0u);
}

TEST_F(CudaMemory, WhereTheSidesCannotShareThereIsNoAdviceAndNoPrefetch) {
    fake_.set_attribute(0, cudaDevAttrConcurrentManagedAccess, 0);
    const Stream stream(gpu());
    const core::Buffer block(std::make_shared<ManagedMemory>(gpu(), ManagedMemory::Advice::prefer_device), 100);
    EXPECT_EQ(fake_.calls("cudaMemAdvise"), 0u);
    EXPECT_THAT(message_of<core::CudaError>([&] { ManagedMemory::prefetch_to_device(block.view(), stream); }),
                AllOf(HasSubstr("cudaMemPrefetchAsync on cuda:0"), HasSubstr("cudaErrorNotSupported")));
}

TEST_F(CudaMemory, ManagedMovesToEitherSide) {
    const Stream stream(gpu());
    const core::Buffer block(std::make_shared<ManagedMemory>(gpu()), 100);
    ManagedMemory::prefetch_to_device(block.view(), stream);
    EXPECT_EQ(fake_.managed_state(block.data()), 4u);
    ManagedMemory::prefetch_to_host(block.view().slice(50, 50), stream);
    EXPECT_EQ(fake_.managed_state(block.data()), 12u);
    ManagedMemory::prefetch_to_host(block.view().slice(50, 0), stream);
    EXPECT_EQ(fake_.calls("cudaMemPrefetchAsync"), 2u);
}

TEST_F(CudaMemory, PrefetchOfOtherMemoryIsRefused) {
    const Stream stream(gpu());
    const core::Buffer block(std::make_shared<DeviceMemory>(gpu()), 100);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ManagedMemory::prefetch_to_host(block.view(), stream); }),
                AllOf(HasSubstr("100 bytes on cuda:0"), HasSubstr("only managed memory moves")));
}

TEST_F(CudaMemory, ManagedOfCuda12GoesThroughTheSymbolsOfCuda12) {
    setenv("FAKE_CUDA_VERSION", "12020", 1);
    fake_.reset();
    unsetenv("FAKE_CUDA_VERSION");
    library_ = Library::open({.path = fake_path(), .directories = {}});
    const Stream stream(gpu());
    const core::Buffer block(std::make_shared<ManagedMemory>(gpu(), ManagedMemory::Advice::read_mostly), 100);
    ManagedMemory::prefetch_to_device(block.view(), stream);
    EXPECT_EQ(fake_.calls("cudaMemAdvise_v2"), 1u);
    EXPECT_EQ(fake_.calls("cudaMemPrefetchAsync_v2"), 1u);
    EXPECT_EQ(fake_.calls("cudaMemPrefetchAsync") + fake_.calls("cudaMemAdvise"), 0u);
}

TEST_F(CudaMemory, StreamOrderedReturnsInTheOrderOfItsStream) {
    const Stream stream(gpu());
    const auto memory = std::make_shared<StreamOrderedMemory>(stream);
    fake_.hold();
    {
        const core::Buffer block(memory, 100);
        stream.fill(block.view(), 7);
    }
    EXPECT_EQ(fake_.live().device_blocks, 1u) << "the fill before it still needs the block";
    EXPECT_EQ(fake_.step(2), 2u);
    EXPECT_EQ(fake_.live().device_blocks, 0u);
}

TEST_F(CudaMemory, StreamOrderedIsRefusedWhereTheDeviceHasNoPools) {
    fake_.set_attribute(0, cudaDevAttrMemoryPoolsSupported, 0);
    const Stream stream(gpu());
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { const StreamOrderedMemory memory(stream); }),
                AllOf(HasSubstr("stream-ordered memory of cuda:0"), HasSubstr("no memory pools")));
}

TEST_F(CudaMemory, AddressTellsWhereItIs) {
    const core::Buffer device(std::make_shared<DeviceMemory>(gpu()), 100);
    const core::Buffer pinned(std::make_shared<PinnedMemory>(gpu()), 100);
    const core::Buffer managed(std::make_shared<ManagedMemory>(gpu()), 100);
    int on_the_stack = 0;
    EXPECT_EQ(device_of(*library_, static_cast<char*>(device.data()) + 50).to_string(), "cuda:0");
    EXPECT_EQ(device_of(*library_, pinned.data()).to_string(), "cuda_host");
    EXPECT_EQ(device_of(*library_, managed.data()).to_string(), "cuda_managed:0");
    EXPECT_EQ(device_of(*library_, &on_the_stack).to_string(), "cpu");
    fake_.fail("cudaPointerGetAttributes", 1, 1);
    EXPECT_EQ(device_of(*library_, &on_the_stack).to_string(), "cpu");
    fake_.fail("cudaPointerGetAttributes", 1, 999);
    EXPECT_THROW(device_of(*library_, &on_the_stack), core::CudaError);
}

TEST_F(CudaMemory, WithoutADriverEveryAddressIsTheCpus) {
    fake_.set_devices(0);
    int on_the_stack = 0;
    EXPECT_EQ(device_of(*library_, &on_the_stack).to_string(), "cpu");
    EXPECT_EQ(device_of(*real_library(), &on_the_stack).to_string(), "cpu");
}

TEST_F(CudaMemory, HandleForOtherProcessesIsRefusedInItsOwn) {
    const core::Buffer block(std::make_shared<DeviceMemory>(gpu()), 100);
    const IpcMemoryHandle handle = ipc_handle(block.view(), gpu());
    EXPECT_EQ(handle.size_bytes, 100u);
    EXPECT_THAT(message_of<core::CudaError>([&] { const IpcMemory mine(gpu(), handle); }),
                HasSubstr("cudaIpcOpenMemHandle on cuda:0"));
    EXPECT_THROW(IpcMemory(gpu(), IpcMemoryHandle{}), core::CudaError);
}

TEST_F(CudaMemory, HandleForOtherProcessesIsOfDeviceMemoryOnly) {
    restart(2);
    const core::Buffer pinned(std::make_shared<PinnedMemory>(gpu()), 100);
    const core::Buffer elsewhere(std::make_shared<DeviceMemory>(gpu(1)), 100);
    EXPECT_THAT(message_of<core::InvalidArgument>([&] { ipc_handle(pinned.view(), gpu()); }),
                AllOf(HasSubstr("100 bytes on cuda_host"), HasSubstr("device memory of cuda:0")));
    EXPECT_THROW(ipc_handle(elsewhere.view(), gpu()), core::InvalidArgument);
    EXPECT_THROW(ipc_handle({nullptr, 4, gpu().core_device()}, gpu()), core::InvalidArgument);
}

}  // namespace
}  // namespace trtlab::cuda::test
