#include "nearest.hpp"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "nvml.hpp"
#include "simulated.hpp"

namespace trtlab::cuda::test {
namespace {

constexpr const char* kUuid = "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfe00";

TEST(PciDevice, TellsItsNodeAndItsCpus) {
    const std::string folder = testing::TempDir() + "/trtlab_pci_device";
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/numa_node") << "1\n";
    std::ofstream(folder + "/local_cpulist") << "4-5,12\n";
    const Nearest nearest = nearest_of_pci_device(folder);
    EXPECT_EQ(nearest.numa_node, 1);
    EXPECT_EQ(nearest.cpus, (core::CpuSet{4, 5, 12}));
}

TEST(PciDevice, OnAMachineWithOneNodeOrNoSuchFolderIsNearNothing) {
    const std::string folder = testing::TempDir() + "/trtlab_pci_device_of_one_node";
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/numa_node") << "-1\n";
    EXPECT_EQ(nearest_of_pci_device(folder).numa_node, -1);
    EXPECT_EQ(nearest_of_pci_device("/nowhere").numa_node, -1);
    EXPECT_TRUE(nearest_of_pci_device("/nowhere").cpus.empty());
}

TEST(PciDevice, WithAListOfCpusThatIsNoneIsNearNone) {
    const std::string folder = testing::TempDir() + "/trtlab_pci_device_of_nonsense";
    std::filesystem::create_directories(folder);
    std::ofstream(folder + "/local_cpulist") << "0-4000000000\n";
    EXPECT_TRUE(nearest_of_pci_device(folder).cpus.empty());
}

TEST(Nvml, TellsWhatIsNearToAGpuBeyondSixtyFourCpus) {
    const Nvml nvml(TRTLAB_FAKE_NVML);
    ASSERT_TRUE(nvml.available());
    const Nearest nearest = nvml.nearest(kUuid);
    EXPECT_EQ(nearest.numa_node, 1);
    EXPECT_EQ(nearest.cpus, (core::CpuSet{0, 1, 130}));
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
    EXPECT_TRUE(nvml.nearest("GPU-0").cpus.empty());
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
