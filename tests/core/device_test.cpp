#include "trtlab/core/device.hpp"

#include <gtest/gtest.h>

namespace trtlab::core {
namespace {

TEST(Device, IsTheCpuUnlessToldOtherwise) {
    EXPECT_EQ(Device{}, (Device{DeviceType::cpu, 0}));
    EXPECT_EQ(Device{}.to_string(), "cpu");
}

TEST(Device, IsWrittenTheWayItIsNamed) {
    EXPECT_EQ((Device{DeviceType::cuda, 2}.to_string()), "cuda:2");
    EXPECT_EQ((Device{DeviceType::cuda_host, 0}.to_string()), "cuda_host");
    EXPECT_EQ((Device{DeviceType::cuda_managed, 1}.to_string()), "cuda_managed:1");
    EXPECT_EQ((Device{static_cast<DeviceType>(99), 0}.to_string()), "device type 99");
}

TEST(Device, IsReadByTheCpuUnlessItIsTheGpusOwnMemory) {
    EXPECT_TRUE(Device{}.host_accessible());
    EXPECT_TRUE((Device{DeviceType::cuda_host, 0}.host_accessible()));
    EXPECT_TRUE((Device{DeviceType::cuda_managed, 0}.host_accessible()));
    EXPECT_FALSE((Device{DeviceType::cuda, 0}.host_accessible()));
}

TEST(Device, IsOrderedByTypeThenIndex) {
    EXPECT_LT((Device{DeviceType::cpu, 5}), (Device{DeviceType::cuda, 0}));
    EXPECT_LT((Device{DeviceType::cuda, 0}), (Device{DeviceType::cuda, 1}));
}

TEST(DeviceType, ValuesAreThoseOfDlpack) {
    EXPECT_EQ(static_cast<int>(DeviceType::cpu), 1);
    EXPECT_EQ(static_cast<int>(DeviceType::cuda), 2);
    EXPECT_EQ(static_cast<int>(DeviceType::cuda_host), 3);
    EXPECT_EQ(static_cast<int>(DeviceType::cuda_managed), 13);
}

}  // namespace
}  // namespace trtlab::core
