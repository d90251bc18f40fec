#include "topology.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>

#include "nvml.hpp"
#include "simulated.hpp"
#include "trtlab/core/thread_pool.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr const char* kUuid = "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe00";

TEST(CpuList, IsReadAsTheKernelWritesIt) {
    EXPECT_THAT(parse_cpu_list("0-3,8,10-11\n"), ElementsAre(0, 1, 2, 3, 8, 10, 11));
    EXPECT_THAT(parse_cpu_list("5"), ElementsAre(5));
    EXPECT_THAT(parse_cpu_list("130,2-2"), ElementsAre(2, 130));
    EXPECT_THAT(parse_cpu_list("1,1,0-1"), ElementsAre(0, 1));
    EXPECT_THAT(parse_cpu_list(""), IsEmpty());
    EXPECT_THAT(parse_cpu_list("\n"), IsEmpty());
}

TEST(CpuList, AnythingElseIsNoListAtAll) {
    for (const char* text :
         {"0-", "-1", "3-1", "0,,1", "0,", "a", "0-3x", "0x3", "99999999999", "0-99999999", "1 2", ","})
        EXPECT_THAT(parse_cpu_list(text), IsEmpty()) << text;
}

TEST(CpuMask, HasTheNumbersOfItsBitsBeyondSixtyFour) {
    const std::array<unsigned long, 3> mask = {0b101, 0, 0b100};
    EXPECT_THAT(bits_of(mask), ElementsAre(0, 2, 130));
    EXPECT_THAT(bits_of({}), IsEmpty());
}

TEST(PciDevice, TellsItsNodeAndItsCpus) {
    const std::string folder = testing::TempDir() + "/trtlab_pci_device";
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/numa_node") << "1\n";
    std::ofstream(folder + "/local_cpulist") << "4-5,12\n";
    const Nearest nearest = nearest_of_pci_device(folder);
    EXPECT_EQ(nearest.numa_node, 1);
    EXPECT_THAT(nearest.cpus, ElementsAre(4, 5, 12));
}

TEST(PciDevice, OnAMachineWithOneNodeOrNoSuchFolderIsNearNothing) {
    const std::string folder = testing::TempDir() + "/trtlab_pci_device_of_one_node";
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/numa_node") << "-1\n";
    EXPECT_EQ(nearest_of_pci_device(folder).numa_node, -1);
    EXPECT_EQ(nearest_of_pci_device("/nowhere").numa_node, -1);
    EXPECT_THAT(nearest_of_pci_device("/nowhere").cpus, IsEmpty());
}

std::size_t usable() { return core::usable_cpus(); }

int first_usable_cpu() {
    cpu_set_t set;
    CPU_ZERO(&set);
    EXPECT_EQ(sched_getaffinity(0, sizeof(set), &set), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
        if (CPU_ISSET(cpu, &set)) return cpu;
    }
    return -1;
}

TEST(Binding, LastsForAScopeAndLeavesTheThreadAsItWas) {
    std::thread([] {
        const std::size_t before = usable();
        const std::array<int, 1> cpus = {first_usable_cpu()};
        {
            const BoundToCpus bound(cpus);
            EXPECT_EQ(usable(), 1u);
        }
        EXPECT_EQ(usable(), before);
    }).join();
}

TEST(Binding, ToCpusThatTheThreadMayNotUseChangesNothing) {
    std::thread([] {
        const std::size_t before = usable();
        const std::array<int, 1> absent = {60000};
        EXPECT_FALSE(bind_this_thread_to(absent));
        EXPECT_FALSE(bind_this_thread_to({}));
        {
            const BoundToCpus bound(absent);
            EXPECT_EQ(usable(), before);
        }
        EXPECT_EQ(usable(), before);
    }).join();
}

TEST(Binding, TakesTheCpusThatAreBothNearAndAllowed) {
    std::thread([] {
        const std::array<int, 2> cpus = {first_usable_cpu(), 60000};
        EXPECT_TRUE(bind_this_thread_to(cpus));
        EXPECT_EQ(usable(), 1u);
    }).join();
}

TEST(Nvml, TellsWhatIsNearToAGpuBeyondSixtyFourCpus) {
    const Nvml nvml(TRTLAB_FAKE_NVML);
    ASSERT_TRUE(nvml.available());
    const Nearest nearest = nvml.nearest(kUuid);
    EXPECT_EQ(nearest.numa_node, 1);
    EXPECT_THAT(nearest.cpus, ElementsAre(0, 1, 130));
    EXPECT_EQ(nvml.total_memory_bytes(kUuid), 85520809984u);
}

TEST(Nvml, TellsTheLoadInWattsAndPercent) {
    const Device::Load load = Nvml(TRTLAB_FAKE_NVML).load(kUuid);
    EXPECT_EQ(load.gpu_percent, 87);
    EXPECT_DOUBLE_EQ(load.power_watts, 412.5);
    EXPECT_DOUBLE_EQ(load.power_limit_watts, 700);
    EXPECT_EQ(load.temperature_celsius, 61);
}

TEST(Nvml, KnowsNothingOfAGpuThatItDoesNotHave) {
    const Nvml nvml(TRTLAB_FAKE_NVML);
    EXPECT_THAT(nvml.nearest("GPU-0").cpus, IsEmpty());
    EXPECT_EQ(nvml.total_memory_bytes("GPU-0"), 0u);
    EXPECT_EQ(nvml.load("GPU-0").gpu_percent, -1);
}

TEST(Nvml, ThatIsAbsentOrDoesNotStartIsNoError) {
    const Nvml absent("/nowhere/libnvidia-ml.so.1");
    EXPECT_FALSE(absent.available());
    EXPECT_EQ(absent.nearest(kUuid).numa_node, -1);
    EXPECT_EQ(absent.load(kUuid).power_watts, -1);
    setenv("FAKE_NVML_MUTE", "1", 1);
    const Nvml mute(TRTLAB_FAKE_NVML);
    EXPECT_FALSE(mute.available());
    unsetenv("FAKE_NVML_MUTE");
}

}  // namespace
}  // namespace trtlab::cuda::test
