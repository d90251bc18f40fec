#include "trtlab/cuda/nvtx.hpp"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace trtlab::cuda::test {
namespace {

using testing::ElementsAre;

/// Part of the test below: NVTX looks for a profiler once in a process, so that it takes a new one.
TEST(NvtxChild, DISABLED_OpensTwoRanges) {
    const NvtxRange outer("stage");
    {
        const NvtxRange inner("launch");
    }
}

/// What a profiler is told by a process that opens two ranges.
std::vector<std::string> profile(bool attached) {
    const std::string file = testing::TempDir() + "/trtlab_profile_" + std::to_string(getpid());
    std::filesystem::remove(file);
    const pid_t child = fork();
    if (child == 0) {
        setenv("FAKE_PROFILER_FILE", file.c_str(), 1);
        attached ? setenv("NVTX_INJECTION64_PATH", TRTLAB_FAKE_PROFILER, 1) : unsetenv("NVTX_INJECTION64_PATH");
        execl("/proc/self/exe", "cuda_test", "--gtest_also_run_disabled_tests", "--gtest_filter=NvtxChild.*",
              "--gtest_brief=1", nullptr);
        _exit(127);
    }
    int status = -1;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
    std::vector<std::string> lines;
    std::ifstream told(file);
    for (std::string line; std::getline(told, line);) lines.push_back(line);
    std::filesystem::remove(file);
    return lines;
}

TEST(NvtxRange, IsToldToAProfilerInTheDomainOfItsOwn) {
    EXPECT_THAT(profile(true), ElementsAre("domain trtlab", "push stage", "push launch", "pop ", "pop "));
}

TEST(NvtxRange, WithoutAProfilerIsToldToNobody) { EXPECT_THAT(profile(false), ElementsAre()); }

}  // namespace
}  // namespace trtlab::cuda::test
