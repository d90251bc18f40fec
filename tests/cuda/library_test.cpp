#include "trtlab/cuda/library.hpp"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "core/log_capture.hpp"
#include "simulated.hpp"

namespace trtlab::cuda::test {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

/// Sets or unsets an environment variable for the length of a scope.
class Variable {
public:
    Variable(const char* name, const char* value) : name_(name) {
        if (const char* before = std::getenv(name)) before_ = before;
        value != nullptr ? setenv(name, value, 1) : unsetenv(name);
    }
    ~Variable() { before_ ? setenv(name_, before_->c_str(), 1) : unsetenv(name_); }

private:
    const char* name_;
    std::optional<std::string> before_;
};

constexpr const char* kVariable = "TRTLAB_CUDART_LIBRARY";

std::string temporary_folder(const std::string& name) {
    const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / ("trtlab_cuda_" + name);
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    return folder.string();
}

class CudaLibrary : public Simulated {};

TEST_F(CudaLibrary, TellsItsVersionItsFileAndItsDriver) {
    EXPECT_GE(library_->version(), 13000);
    EXPECT_EQ(library_->driver_version(), library_->version());
    EXPECT_TRUE(std::filesystem::equivalent(library_->path(), fake_path()));
    EXPECT_EQ(library_->device_count(), 1);
    EXPECT_EQ(library_->why_no_device(), "");
}

TEST_F(CudaLibrary, PathThatDoesNotExistIsNotFoundAndSaysHowToInstall) {
    EXPECT_THAT(
        message_of<core::NotFound>([] { Library::open({.path = "/nowhere/libcudart.so.13", .directories = {}}); }),
        AllOf(HasSubstr("/nowhere/libcudart.so.13"), HasSubstr("pip install \"trtlab[cuda]\"")));
}

TEST_F(CudaLibrary, EnvironmentVariableIsTakenAtItsWord) {
    const Variable variable(kVariable, "/nowhere/from_the_environment.so");
    EXPECT_THAT(message_of<core::NotFound>([] { Library::open({.path = "", .directories = {TRTLAB_CUDART_DIR}}); }),
                AllOf(HasSubstr(kVariable), HasSubstr("/nowhere/from_the_environment.so")));
}

TEST_F(CudaLibrary, EnvironmentVariableOpensTheFileItNames) {
    const Variable variable(kVariable, fake_path().c_str());
    EXPECT_EQ(Library::open()->path(), library_->path());
}

TEST_F(CudaLibrary, FoldersAreLookedThroughInOrderAndABrokenFileHidesNoGoodOne) {
    const Variable unset(kVariable, nullptr);
    const std::string broken = temporary_folder("broken");
    std::ofstream(broken + "/libcudart.so.13") << "this is text";
    const std::string good = temporary_folder("good");
    std::filesystem::copy(fake_path(), good + "/libcudart.so.12");
    EXPECT_EQ(Library::open({.path = "", .directories = {"/nowhere", broken, good}})->path(),
              good + "/libcudart.so.12");
}

TEST_F(CudaLibrary, FileThatIsNoLibraryIsAnEngineErrorWithTheLoadersReason) {
    const std::string file = temporary_folder("text") + "/libcudart.so.13";
    std::ofstream(file) << "this is text";
    EXPECT_THAT(message_of<core::EngineError>([&] { Library::open({.path = file, .directories = {}}); }),
                AllOf(HasSubstr(file), HasSubstr("could not be opened"), HasSubstr("pip install")));
}

TEST_F(CudaLibrary, OfAnotherKindIsRefusedWithTheFunctionsItLacks) {
    Dl_info info{};
    double (*const function)(double) = &std::erf;
    ASSERT_NE(dladdr(reinterpret_cast<const void*>(function), &info), 0);
    const std::string file = info.dli_fname;
    EXPECT_THAT(message_of<core::EngineError>([&] { Library::open({.path = file, .directories = {}}); }),
                AllOf(HasSubstr("lacks"), HasSubstr("cudaMalloc"), HasSubstr("cudaStreamEndCapture"),
                      HasSubstr("cudaGetDeviceProperties")));
}

TEST_F(CudaLibrary, OfAReleaseThatIsNotKnownIsRefusedWithBothVersions) {
    for (const char* version : {"11080", "12010", "14000"}) {
        const Variable variable("FAKE_CUDA_VERSION", version);
        fake_.reset();
        const int number = std::atoi(version);
        EXPECT_THAT(message_of<core::EngineError>([] { Library::open({.path = fake_path(), .directories = {}}); }),
                    AllOf(HasSubstr(fake_path()), HasSubstr("12.2 to 13.x"),
                          HasSubstr(std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10))));
    }
}

TEST_F(CudaLibrary, WithoutADriverThereIsNoDeviceAndItSaysWhy) {
    fake_.set_devices(0);
    EXPECT_EQ(library_->device_count(), 0);
    EXPECT_EQ(library_->driver_version(), 0);
    EXPECT_THAT(library_->why_no_device(), HasSubstr("no NVIDIA driver"));
}

TEST_F(CudaLibrary, ADriverThatIsTooOldIsNotTakenForNone) {
    fake_.fail("cudaGetDeviceCount", 0, 35);
    EXPECT_EQ(library_->device_count(), 0);
    EXPECT_THAT(library_->why_no_device(), AllOf(HasSubstr("at most"), HasSubstr("update the driver")));
}

TEST_F(CudaLibrary, ADriverThatShowsNothingIsToldWithWhatHidesIt) {
    const Variable hidden("CUDA_VISIBLE_DEVICES", "7");
    fake_.fail("cudaGetDeviceCount", 0, 100);
    EXPECT_EQ(library_->device_count(), 0);
    EXPECT_THAT(library_->why_no_device(), HasSubstr("CUDA_VISIBLE_DEVICES is '7'"));
}

TEST_F(CudaLibrary, AStartThatFailsIsToldInCudasWords) {
    fake_.fail("cudaGetDeviceCount", 0, 3);
    EXPECT_EQ(library_->device_count(), 0);
    EXPECT_THAT(library_->why_no_device(), HasSubstr("cudaErrorInitializationError"));
}

TEST_F(CudaLibrary, ADriverThatComesLateIsNoticed) {
    fake_.set_devices(0);
    EXPECT_EQ(library_->device_count(), 0);
    fake_.set_devices(2);
    EXPECT_EQ(library_->device_count(), 2);
    EXPECT_EQ(library_->why_no_device(), "");
}

TEST_F(CudaLibrary, AnErrorNamesCallDeviceWordsAndCode) {
    try {
        library_->check(1, "cudaFrobnicate", 3);
        FAIL() << "nothing was thrown";
    } catch (const core::CudaError& error) {
        EXPECT_STREQ(error.what(), "cudaFrobnicate on cuda:3: invalid argument (cudaErrorInvalidValue)");
        EXPECT_EQ(error.code(), 1);
        EXPECT_FALSE(error.device_lost());
    }
    EXPECT_NO_THROW(library_->check(0, "cudaFrobnicate", 3));
}

TEST_F(CudaLibrary, WhatLosesTheDeviceSaysSo) {
    for (const int code : {700, 719, 214, 714, 715, 716, 717, 718, 710, 702, 220}) {
        try {
            library_->check(code, "cudaLaunch", 0);
            FAIL() << "nothing was thrown for " << code;
        } catch (const core::CudaError& error) {
            EXPECT_TRUE(error.device_lost()) << code;
            EXPECT_THAT(error.what(), HasSubstr("can use the device no more"));
        }
    }
    for (const int code : {1, 3, 400, 801, 900}) {
        try {
            library_->check(code, "cudaLaunch", 0);
            FAIL() << "nothing was thrown for " << code;
        } catch (const core::CudaError& error) {
            EXPECT_FALSE(error.device_lost()) << code;
        }
    }
}

TEST_F(CudaLibrary, OutOfMemoryIsATypeOfItsOwn) {
    EXPECT_THAT(message_of<core::OutOfMemory>([&] { library_->check(2, "cudaMalloc", 1); }),
                AllOf(HasSubstr("cudaMalloc on cuda:1"), HasSubstr("cudaErrorMemoryAllocation")));
}

TEST_F(CudaLibrary, NoDriverIsExplainedInTheErrorOfACall) {
    fake_.set_devices(0);
    EXPECT_THAT(message_of<core::CudaError>([&] { library_->check(35, "cudaMalloc"); }),
                AllOf(HasSubstr("cudaErrorInsufficientDriver"), HasSubstr("no NVIDIA driver")));
}

TEST_F(CudaLibrary, WhatADestructorMeetsIsLoggedAndTheLossOfADeviceOnce) {
    const core::testing::LogCapture log;
    library_->report(0, "cudaFree", 0);
    library_->report(4, "cudaFree", 0);  // CUDA is going away with the process
    EXPECT_THAT(log.messages(), IsEmpty());
    library_->report(1, "cudaFree", 0);
    library_->report(700, "cudaFree", 0);
    library_->report(700, "cudaStreamDestroy", 0);
    EXPECT_THAT(log.messages(), ElementsAre(HasSubstr("cudaErrorInvalidValue"),
                                            AllOf(HasSubstr("cudaErrorIllegalAddress"), Not(HasSubstr("Stream")))));
}

TEST_F(CudaLibrary, OpeningItTwiceAndClosingItOnceKeepsTheOther) {
    auto second = Library::open({.path = fake_path(), .directories = {}});
    second.reset();
    EXPECT_EQ(library_->device_count(), 1);
}

TEST(CudaLibraryOfPyPI, OpensWithoutADriverAndSaysWhatIsMissing) {
    const auto library = real_library();
    EXPECT_GE(library->version(), 12020);
    EXPECT_TRUE(std::filesystem::exists(library->path()));
    if (library->device_count() == 0) {
        EXPECT_NE(library->why_no_device(), "");
        EXPECT_THAT(message_of<core::NotFound>([&] { Device(library, 0); }),
                    AllOf(HasSubstr("cuda:0 does not exist"), HasSubstr("there is no CUDA device")));
        EXPECT_THAT(message_of<core::NotFound>([&] { Device::named(library, "cuda"); }),
                    HasSubstr(library->why_no_device()));
        EXPECT_TRUE(Device::list(library).empty());
    } else {
        EXPECT_EQ(library->why_no_device(), "");
        EXPECT_GT(library->driver_version(), 0);
        EXPECT_EQ(Device::list(library).size(), static_cast<std::size_t>(library->device_count()));
    }
}

}  // namespace
}  // namespace trtlab::cuda::test
