#include "trtlab/openvino/library.hpp"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "models.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::openvino::test {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::StartsWith;

constexpr const char* kVariable = "TRTLAB_OPENVINO_LIBRARY";

/// Sets or unsets the environment variable for the length of a scope.
class Variable {
public:
    explicit Variable(const char* value) {
        if (const char* before = std::getenv(kVariable)) before_ = before;
        value != nullptr ? setenv(kVariable, value, 1) : unsetenv(kVariable);
    }
    ~Variable() { before_ ? setenv(kVariable, before_->c_str(), 1) : unsetenv(kVariable); }

private:
    std::optional<std::string> before_;
};

std::string temporary_folder(const std::string& name) {
    const std::filesystem::path folder = std::filesystem::path(testing::TempDir()) / ("trtlab_" + name);
    std::filesystem::remove_all(folder);
    std::filesystem::create_directories(folder);
    return folder.string();
}

TEST(Library, OfAnotherReleaseLineIsRefusedWithBothVersions) {
    const std::string path = TRTLAB_OPENVINO_OF_ANOTHER_RELEASE;
    EXPECT_THAT(message_of<core::EngineError>([&] { Library::open({.path = path}); }),
                AllOf(HasSubstr(path), HasSubstr("2031.1.0"), HasSubstr("2026."), HasSubstr("trtlab[cpu]")));
}

TEST(Library, OfAnotherKindIsNamedWithWhatItLacks) {
    Dl_info info{};
    ASSERT_NE(dladdr(reinterpret_cast<const void*>(&core::usable_cpus), &info), 0);
    const std::string path = std::filesystem::absolute(info.dli_fname).string();
    EXPECT_THAT(message_of<core::EngineError>([&] { Library::open({.path = path}); }),
                AllOf(HasSubstr(path), HasSubstr("ov_core_create"), HasSubstr("trtlab[cpu]")));
}

TEST(Library, TellsItsVersionItsFileAndItsDevices) {
    EXPECT_THAT(library()->version(), StartsWith("2026."));
    EXPECT_THAT(library()->path(), HasSubstr("libopenvino_c.so"));
    EXPECT_TRUE(std::filesystem::exists(library()->path()));
    EXPECT_THAT(library()->devices(), Contains("CPU"));
    EXPECT_NE(library()->device_property("CPU", "FULL_DEVICE_NAME"), "");
}

TEST(Library, UnknownDeviceOrPropertyIsAnEngineErrorThatNamesIt) {
    EXPECT_THAT(message_of<core::EngineError>([] { library()->device_property("ABACUS", "FULL_DEVICE_NAME"); }),
                HasSubstr("'ABACUS'"));
    EXPECT_THAT(message_of<core::EngineError>([] { library()->device_property("CPU", "COLOUR"); }),
                HasSubstr("'COLOUR'"));
}

TEST(Library, PathThatDoesNotExistIsNotFoundAndSaysHowToInstall) {
    EXPECT_THAT(
        message_of<core::NotFound>([] { Library::open({.path = "/nowhere/libopenvino_c.so", .directories = {}}); }),
        AllOf(HasSubstr("/nowhere/libopenvino_c.so"), HasSubstr("pip install \"trtlab[cpu]\"")));
}

TEST(Library, EnvironmentVariableIsTakenAtItsWord) {
    const Variable variable("/nowhere/from_the_environment.so");
    EXPECT_THAT(message_of<core::NotFound>([] { Library::open({.path = "", .directories = {library_folder()}}); }),
                AllOf(HasSubstr(kVariable), HasSubstr("/nowhere/from_the_environment.so")));
}

TEST(Library, EnvironmentVariableOpensTheFileItNames) {
    const Variable variable(library()->path().c_str());
    EXPECT_EQ(Library::open()->version(), library()->version());
}

TEST(Library, FileThatIsNoLibraryIsAnEngineErrorWithTheLoadersReason) {
    const std::string file = temporary_folder("text") + "/libopenvino_c.so.2641";
    std::ofstream(file) << "this is text";
    EXPECT_THAT(message_of<core::EngineError>([&] { Library::open({.path = file, .directories = {}}); }),
                AllOf(HasSubstr(file), HasSubstr("could not be opened"), HasSubstr("pip install")));
}

TEST(Library, LibraryOfAnotherKindIsRefusedWithTheFunctionsItLacks) {
    Dl_info info{};
    double (*const function)(double) = &std::erf;
    ASSERT_NE(dladdr(reinterpret_cast<const void*>(function), &info), 0);
    const std::string file = info.dli_fname;
    EXPECT_THAT(message_of<core::EngineError>([&] { Library::open({.path = file, .directories = {}}); }),
                AllOf(HasSubstr("lacks"), HasSubstr("ov_core_create"), HasSubstr("ov_infer_request_infer")));
}

TEST(Library, BrokenFileInOneFolderDoesNotHideAGoodOneInTheNext) {
    const Variable unset(nullptr);
    const std::string broken = temporary_folder("broken");
    std::ofstream(broken + "/libopenvino_c.so.9999") << "this is text";
    const std::string good = std::filesystem::path(library()->path()).parent_path().string();
    EXPECT_EQ(Library::open({.path = "", .directories = {"/nowhere", broken, good}})->path(), library()->path());
}

TEST(Library, CanBeOpenedTwiceAndClosedOnce) {
    auto second = Library::open({.path = library()->path(), .directories = {}});
    second.reset();
    EXPECT_THAT(library()->devices(), Contains("CPU"));
}

}  // namespace
}  // namespace trtlab::openvino::test
