#include "trtlab/cuda/device.hpp"

#include <cuda_runtime_api.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "api.hpp"
#include "core/log_capture.hpp"
#include "simulated.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* kUuidOfTheSecond = "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe01";

class CudaDevice : public Simulated {};

TEST_F(CudaDevice, TellsWhatItIs) {
    fake_.set_memory(0, 3 << 20);
    const Device device = gpu();
    const DeviceProperties& properties = device.properties();
    EXPECT_EQ(properties.name, "Fake GPU 0");
    EXPECT_EQ(properties.uuid, "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe00");
    EXPECT_EQ(properties.pci_bus_id, "fa4e:01:00.0");
    EXPECT_EQ(properties.compute_major, 9);
    EXPECT_EQ(properties.compute_minor, 0);
    EXPECT_EQ(properties.multiprocessors, 132);
    EXPECT_EQ(properties.copy_engines, 3);
    EXPECT_EQ(properties.l2_bytes, 50u << 20);
    EXPECT_EQ(properties.total_memory_bytes, 3u << 20);
    EXPECT_TRUE(properties.managed_memory);
    EXPECT_TRUE(properties.concurrent_managed_access);
    EXPECT_TRUE(properties.memory_pools);
    EXPECT_FALSE(properties.integrated);
    EXPECT_EQ(properties.numa_node, -1);
    EXPECT_TRUE(properties.cpus.empty());
    EXPECT_EQ(device.to_string(), "cuda:0");
    EXPECT_EQ(device.core_device(), (core::Device{core::DeviceType::cuda, 0}));
}

TEST_F(CudaDevice, IsAskedOnceAndRemembered) {
    const Device first = gpu();
    const std::uint64_t calls = fake_.calls("cudaDeviceGetAttribute");
    const Device second = gpu();
    EXPECT_EQ(fake_.calls("cudaDeviceGetAttribute"), calls);
    EXPECT_EQ(&first.properties(), &second.properties());
}

TEST_F(CudaDevice, AskingForItLeavesTheThreadsDeviceAsItWas) {
    restart(2);
    const DeviceGuard guard(gpu(1));
    (void)gpu(0);
    int current = -1;
    EXPECT_EQ(library_->api().GetDevice(&current), cudaSuccess);
    EXPECT_EQ(current, 1);
}

TEST_F(CudaDevice, ThatDoesNotExistIsNotFoundAndSaysHowManyThereAre) {
    EXPECT_THAT(message_of<core::NotFound>([&] { gpu(3); }),
                AllOf(HasSubstr("cuda:3 does not exist"), HasSubstr("has one, cuda:0")));
    restart(2);
    EXPECT_THAT(message_of<core::NotFound>([&] { gpu(-1); }), HasSubstr("cuda:0 to cuda:1"));
    restart(0);
    EXPECT_THAT(message_of<core::NotFound>([&] { gpu(0); }), HasSubstr("no NVIDIA driver"));
    EXPECT_THROW(Device(nullptr, 0), core::InvalidArgument);
}

TEST_F(CudaDevice, IsFoundByNumberAndByUuid) {
    restart(2);
    EXPECT_EQ(Device::named(library_, "cuda").ordinal(), 0);
    EXPECT_EQ(Device::named(library_, "cuda:1").ordinal(), 1);
    EXPECT_EQ(Device::named(library_, std::string("cuda:") + kUuidOfTheSecond).ordinal(), 1);
    EXPECT_THAT(message_of<core::NotFound>([&] { Device::named(library_, "cuda:GPU-0"); }),
                AllOf(HasSubstr("'GPU-0'"), HasSubstr(kUuidOfTheSecond)));
    EXPECT_THROW(Device::named(library_, "cuda:2"), core::NotFound);
}

TEST_F(CudaDevice, NameOfAnotherFormIsRefusedWithTheForms) {
    for (const char* name : {"", "cpu", "cuda:", "cuda:x", "cuda:1x", "cuda:-1", "cuda: 1", "cuda1", "CUDA:0",
                             "cuda:99999999999999999999"})
        EXPECT_THAT(message_of<core::InvalidArgument>([&] { Device::named(library_, name); }),
                    AllOf(HasSubstr("'" + std::string(name) + "'"), HasSubstr("cuda:<number>")))
            << name;
}

TEST_F(CudaDevice, AllOfThemAreListed) {
    restart(3);
    std::vector<int> ordinals;
    for (const Device& device : Device::list(library_)) ordinals.push_back(device.ordinal());
    EXPECT_THAT(ordinals, ElementsAre(0, 1, 2));
    restart(0);
    EXPECT_TRUE(Device::list(library_).empty());
}

TEST_F(CudaDevice, TellsHowMuchMemoryIsFree) {
    fake_.set_memory(0, 1000);
    void* block = nullptr;
    ASSERT_EQ(library_->api().Malloc(&block, 300), cudaSuccess);
    const Device::Memory memory = gpu().memory();
    EXPECT_EQ(memory.free_bytes, 700u);
    EXPECT_EQ(memory.total_bytes, 1000u);
    EXPECT_EQ(library_->api().Free(block), cudaSuccess);
}

TEST_F(CudaDevice, LoadOfAGpuThatNvmlDoesNotKnowIsUnknown) {
    const Device::Load load = gpu().load();
    EXPECT_EQ(load.gpu_percent, -1);
    EXPECT_EQ(load.power_watts, -1);
    EXPECT_EQ(load.power_limit_watts, -1);
    EXPECT_EQ(load.temperature_celsius, -1);
    EXPECT_FALSE(gpu().bind_this_thread());
}

TEST_F(CudaDevice, SynchronizeWaitsForEveryStreamOfIt) {
    const Device device = gpu();
    const Stream stream(device);
    fake_.hold();
    bool ran = false;
    ASSERT_EQ(fake_.enqueue(stream.handle(), [&] { ran = true; }), 0);
    std::thread stepper([&] { fake_.step(1); });
    device.synchronize();
    EXPECT_TRUE(ran);
    stepper.join();
}

TEST_F(CudaDevice, CanReachThePeersThatCudaNames) {
    restart(2);
    EXPECT_TRUE(gpu(0).can_access(gpu(1)));
    EXPECT_TRUE(gpu(0).can_access(gpu(0)));
    fake_.fail("cudaDeviceCanAccessPeer", 1, 101);
    EXPECT_THROW(gpu(0).can_access(gpu(1)), core::CudaError);
}

TEST_F(CudaDevice, GuardRestoresWhatWasCurrentAndIsFreeWhereItIsAlready) {
    restart(2);
    const Device first = gpu(0), second = gpu(1);
    first.make_current();
    const std::uint64_t sets = fake_.calls("cudaSetDevice");
    int current = -1;
    {
        const DeviceGuard outer(second);
        library_->api().GetDevice(&current);
        EXPECT_EQ(current, 1);
        const DeviceGuard inner(second);
        EXPECT_EQ(fake_.calls("cudaSetDevice"), sets + 1);
    }
    library_->api().GetDevice(&current);
    EXPECT_EQ(current, 0);
    EXPECT_EQ(fake_.calls("cudaSetDevice"), sets + 2);
}

TEST_F(CudaDevice, GuardThatFailsThrowsNamingTheDevice) {
    restart(2);
    const Device second = gpu(1);
    fake_.fail("cudaSetDevice", 1, 46);
    EXPECT_THAT(message_of<core::CudaError>([&] { const DeviceGuard guard(second); }),
                HasSubstr("cudaSetDevice on cuda:1"));
}

TEST_F(CudaDevice, GuardThatCannotGoBackLogs) {
    restart(2);
    const Device second = gpu(1);
    const core::testing::LogCapture log;
    {
        const DeviceGuard guard(second);
        fake_.fail("cudaSetDevice", 1, 46);
    }
    EXPECT_THAT(log.messages(), ElementsAre(HasSubstr("cudaSetDevice on cuda:0")));
}

TEST_F(CudaDevice, IsQueriedThroughTheSymbolsOfCuda12WhereThatIsWhatWasOpened) {
    setenv("FAKE_CUDA_VERSION", "12040", 1);
    fake_.reset();
    unsetenv("FAKE_CUDA_VERSION");
    const auto library = Library::open({.path = fake_path(), .directories = {}});
    EXPECT_EQ(library->version(), 12040);
    EXPECT_EQ(Device(library, 0).properties().name, "Fake GPU 0");
    EXPECT_EQ(fake_.calls("cudaGetDeviceProperties_v2"), 1u);
    EXPECT_EQ(fake_.calls("cudaGetDeviceProperties"), 0u);
}

}  // namespace
}  // namespace trtlab::cuda::test
