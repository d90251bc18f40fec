#include "trtlab/tensorrt/library.hpp"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>

#include "fixture.hpp"

namespace trtlab::tensorrt::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

namespace fs = std::filesystem;

constexpr const char* kVariable = "TRTLAB_TENSORRT_LIBRARY";

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

/// A folder in which the fake lies under the names given.
std::string folder_with(const std::string& name, const std::vector<std::string>& files) {
    const fs::path folder = fs::path(testing::TempDir()) / ("trtlab_tensorrt_" + name);
    fs::remove_all(folder);
    fs::create_directories(folder);
    for (const std::string& file : files) fs::copy_file(TRTLAB_FAKE_NVINFER, folder / file);
    return folder.string();
}

void be(const std::string& path, int version) { fake_nvinfer::control(path).version = version; }

struct Known {
    int number;
    Generation generation;
    Flavour flavour;
    const char* text;
};

TEST(Library, KnowsEveryGenerationByItsVersion) {
    for (const Known& known : {Known{100000, Generation::trt10, Flavour::full, "TensorRT 10.0.0"},
                               Known{101601, Generation::trt10, Flavour::full, "TensorRT 10.16.1"},
                               Known{110400, Generation::trt11, Flavour::full, "TensorRT 11.4.0"},
                               Known{10400, Generation::rtx14, Flavour::rtx, "TensorRT-RTX 1.4.0"},
                               Known{10500, Generation::rtx17, Flavour::rtx, "TensorRT-RTX 1.5.0"},
                               Known{10701, Generation::rtx17, Flavour::rtx, "TensorRT-RTX 1.7.1"}}) {
        const std::string folder =
            folder_with("known", {known.flavour == Flavour::rtx ? "libtensorrt_rtx.so.1" : "libnvinfer.so.10"});
        const std::string file = fs::directory_iterator(folder)->path().string();
        be(file, known.number);
        const auto library = Library::open({.path = file});
        EXPECT_EQ(library->version_number(), known.number);
        EXPECT_EQ(library->generation(), known.generation);
        EXPECT_EQ(library->flavour(), known.flavour);
        EXPECT_EQ(library->to_string(), known.text);
        EXPECT_EQ(library->path(), file);
    }
}

TEST(Library, RefusesVersionsThatWereNotExamined) {
    for (const int number : {99999, 120000, 10399, 10800, 90100, 0, -1}) {
        fake().version = number;
        EXPECT_THAT(message_of<core::EngineError>([] { Library::open({.path = TRTLAB_FAKE_NVINFER}); }),
                    AllOf(HasSubstr(TRTLAB_FAKE_NVINFER), HasSubstr("(" + std::to_string(number) + ")"),
                          HasSubstr("expected TensorRT 10.x or 11.x, or TensorRT-RTX 1.4 to 1.7")));
    }
    fake().reset();
}

TEST(Library, WhoseNameAndVersionDisagreeIsRefused) {
    const std::string file = folder_with("disagrees", {"libtensorrt_rtx.so.1"}) + "/libtensorrt_rtx.so.1";
    be(file, 101601);
    EXPECT_THAT(message_of<core::EngineError>([&] { Library::open({.path = file}); }),
                AllOf(HasSubstr("its name says rtx"), HasSubstr("10.16.1")));
}

TEST(Library, TellsLeanAndDispatchByTheirNames) {
    const std::string folder = folder_with("flavours", {"libnvinfer_lean.so.11", "libnvinfer_dispatch.so.11"});
    be(folder + "/libnvinfer_lean.so.11", 110400);
    be(folder + "/libnvinfer_dispatch.so.11", 110400);
    EXPECT_EQ(Library::open({.path = folder + "/libnvinfer_lean.so.11"})->to_string(), "TensorRT 11.4.0 (lean)");
    EXPECT_EQ(Library::open({.path = folder + "/libnvinfer_dispatch.so.11"})->flavour(), Flavour::dispatch);
}

TEST(Library, IsTheNewestOfTheFirstFlavourThatIsThere) {
    const Variable unset(nullptr);
    const std::string folder = folder_with("newest", {"libnvinfer.so.10", "libnvinfer.so.11", "libtensorrt_rtx.so.1",
                                                      "libnvinfer_lean.so.11", "libnvinfer_plugin.so.11"});
    be(folder + "/libnvinfer.so.10", 101601);
    be(folder + "/libnvinfer.so.11", 110000);
    be(folder + "/libtensorrt_rtx.so.1", 10701);
    be(folder + "/libnvinfer_lean.so.11", 110400);
    const auto open = [&](std::vector<Flavour> flavours, const std::string& version) {
        return Library::open({.directories = {folder}, .flavours = std::move(flavours), .version = version})
            ->to_string();
    };
    EXPECT_EQ(open({}, ""), "TensorRT 11.0.0");
    EXPECT_EQ(open({}, "10"), "TensorRT 10.16.1");
    EXPECT_EQ(open({}, "11.4"), "TensorRT 11.4.0 (lean)");
    EXPECT_EQ(open({}, "1.7.1"), "TensorRT-RTX 1.7.1");
    EXPECT_EQ(open({Flavour::lean, Flavour::full}, ""), "TensorRT 11.4.0 (lean)");
    EXPECT_THAT(
        message_of<core::EngineError>([&] { open({}, "11.2"); }),
        AllOf(HasSubstr("of version 11.2"), HasSubstr(folder + "/libnvinfer.so.11 (version 11.0.0)"),
              HasSubstr(folder + "/libtensorrt_rtx.so.1 (version 1.7.1)"), HasSubstr("version 11.2 was asked for"),
              HasSubstr("pip install"), testing::Not(HasSubstr("plugin"))));
}

TEST(Library, SearchFindsOneThatWorksBehindOneThatDoesNot) {
    const Variable unset(nullptr);
    const std::string broken = folder_with("broken", {});
    std::ofstream(broken + "/libnvinfer.so.11") << "this is text";
    const std::string good = folder_with("good", {"libnvinfer.so.10"});
    be(good + "/libnvinfer.so.10", 101601);
    const Library::Options options{.directories = {"/nowhere", broken, good}};
    EXPECT_EQ(Library::open(options)->path(), good + "/libnvinfer.so.10");
    const auto found = Library::find(options);
    ASSERT_GE(found.size(), 2U);  // behind these, what the machine has
    EXPECT_EQ(found[0].path, broken + "/libnvinfer.so.11");
    EXPECT_NE(found[0].problem, "");
    EXPECT_EQ(found[1].problem, "");
    EXPECT_EQ(found[1].version, "10.16.1");
}

TEST(Library, SaysWhereItLookedIfThereIsNone) {
    const Variable unset(nullptr);
    const std::string empty = folder_with("empty", {});
    // Of a version that there is not, so that a library of the machine's own does not matter.
    EXPECT_THAT(
        message_of<core::EngineError>([&] { Library::open({.directories = {"/nowhere", empty}, .version = "99"}); }),
        AllOf(HasSubstr("/nowhere (no such folder)"), HasSubstr(empty), HasSubstr("libnvinfer.so.11"),
              HasSubstr("libtensorrt_rtx.so.1"), HasSubstr("libnvinfer_dispatch.so.10"),
              HasSubstr("pip install \"trtlab[rtx]\"")));
}

TEST(Library, PathThatDoesNotExistIsNotFound) {
    EXPECT_THAT(message_of<core::NotFound>([] { Library::open({.path = "/nowhere/libnvinfer.so.11"}); }),
                AllOf(HasSubstr("/nowhere/libnvinfer.so.11"), HasSubstr("pip install")));
}

TEST(Library, EnvironmentVariableIsTakenAtItsWord) {
    const std::string folder = folder_with("variable", {"libnvinfer.so.11"});
    be(folder + "/libnvinfer.so.11", 110400);
    {
        const Variable variable("/nowhere/from_the_environment.so");
        EXPECT_THAT(message_of<core::NotFound>([&] { Library::open({.directories = {folder}}); }),
                    AllOf(HasSubstr(kVariable), HasSubstr("/nowhere/from_the_environment.so")));
    }
    const Variable variable((folder + "/libnvinfer.so.11").c_str());
    EXPECT_EQ(Library::open()->version(), "11.4.0");
    EXPECT_THAT(message_of<core::EngineError>([] { Library::open({.version = "10"}); }),
                HasSubstr("version 10 was asked for"));
}

TEST(Library, OfAnotherKindIsNamedWithWhatItLacks) {
    EXPECT_THAT(message_of<core::EngineError>([] { Library::open({.path = TRTLAB_FAKE_CUDART}); }),
                AllOf(HasSubstr(TRTLAB_FAKE_CUDART), HasSubstr("getInferLibVersion"),
                      HasSubstr("createInferRuntime_INTERNAL")));
}

TEST(Library, VersionThatIsNoneIsRefused) {
    for (const char* version : {"ten", "10.", ".4", "1.2.3.4", "-1", "10 ", "99999"}) {
        EXPECT_THAT(message_of<core::InvalidArgument>([&] { Library::open({.version = version}); }),
                    AllOf(HasSubstr(version), HasSubstr("\"11.4\"")));
    }
}

}  // namespace
}  // namespace trtlab::tensorrt::test
