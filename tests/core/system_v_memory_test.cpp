#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/shm.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <limits>

#include "in_child.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/shared_memory.hpp"

namespace trtlab::core::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

char* bytes(const SystemVMemory& memory) { return static_cast<char*>(memory.data()); }

std::string why_no_system_v() {
    try {
        (void)SystemVMemory::create(1);
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

class SystemV : public ::testing::Test {
protected:
    void SetUp() override {
        if (const std::string why = why_no_system_v(); !why.empty()) GTEST_SKIP() << why;
    }
    /// One that no segment has.
    static int free_key() {
        static int next = 0x7472 + static_cast<int>(getpid() % 10'000) * 1000;
        while (shmget(++next, 0, 0) >= 0 || errno != ENOENT) {
        }
        return next;
    }
};

TEST_F(SystemV, ASegmentIsZerosThatAnotherProcessAttachesTo) {
    const SystemVMemory memory = SystemVMemory::create(5000);
    EXPECT_EQ(memory.size_bytes(), 5000u);
    for (std::size_t i = 0; i < 5000; ++i) ASSERT_EQ(bytes(memory)[i], 0);
    EXPECT_EQ(in_child([&] {
                  const SystemVMemory mine = SystemVMemory::attach(memory.id(), 5000);
                  bytes(mine)[4999] = 9;
                  return mine.data() != memory.data() ? 0 : 1;
              }),
              0);
    EXPECT_EQ(bytes(memory)[4999], 9);
}

TEST_F(SystemV, AttachingToAReleasedSegmentIsRefused) {
    int id = -1;
    {
        const SystemVMemory memory = SystemVMemory::create(100);
        id = memory.id();
        const SystemVMemory other = SystemVMemory::attach(id);
    }
    EXPECT_THAT(refusal([&] { (void)SystemVMemory::attach(id); }), HasSubstr(std::to_string(id)));
    EXPECT_THAT(refusal([] { (void)SystemVMemory::attach(-1); }), HasSubstr("at least 0"));
}

TEST_F(SystemV, ASegmentOfAProcessThatWasKilledGoes) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    const FileDescriptor reader(ends[0]), writer(ends[1]);
    EXPECT_EQ(in_child([&] {
                  const SystemVMemory memory = SystemVMemory::create(100);
                  const int id = memory.id();
                  if (write(writer.get(), &id, sizeof(id)) != sizeof(id)) return 1;
                  raise(SIGKILL);
                  return 2;
              }),
              1000 + SIGKILL);
    int id = -1;
    ASSERT_EQ(read(reader.get(), &id, sizeof(id)), static_cast<ssize_t>(sizeof(id)));
    (void)refusal([&] { (void)SystemVMemory::attach(id); });
}

TEST_F(SystemV, NobodyAttachesOnceThatIsDisabled) {
    SystemVMemory memory = SystemVMemory::create(100);
    const SystemVMemory before = SystemVMemory::attach(memory.id());
    memory.disable_attachment();
    memory.disable_attachment();
    EXPECT_NE(refusal([&] { (void)SystemVMemory::attach(memory.id()); }), "");
    bytes(before)[3] = 4;
    EXPECT_EQ(bytes(memory)[3], 4);
}

TEST_F(SystemV, SizesAreChecked) {
    const SystemVMemory memory = SystemVMemory::create(100);
    EXPECT_EQ(SystemVMemory::attach(memory.id(), 50).size_bytes(), 50u);
    for (const std::size_t size : {std::size_t{0}, std::size_t{101}, std::numeric_limits<std::size_t>::max()}) {
        EXPECT_THAT(refusal([&] { (void)SystemVMemory::attach(memory.id(), size); }),
                    AllOf(HasSubstr("100"), HasSubstr(std::to_string(size))));
    }
    shmid_ds status{};
    ASSERT_EQ(shmctl(memory.id(), IPC_STAT, &status), 0);
    EXPECT_EQ(status.shm_nattch, 1u);  // what was refused is not kept
    EXPECT_THAT(refusal([] { (void)SystemVMemory::create(0); }), HasSubstr("at least 1 byte"));
    EXPECT_THROW((void)SystemVMemory::create(std::size_t{1} << 60), Error);
    EXPECT_THROW((void)SystemVMemory::create(std::numeric_limits<std::size_t>::max()), Error);
}

TEST_F(SystemV, AKeyIsFoundUntilItsMakerGoes) {
    const int key = free_key();
    {
        const SystemVMemory memory = SystemVMemory::create(100, key);
        EXPECT_EQ(in_child([&] {
                      bytes(SystemVMemory::attach_key(key, 100))[0] = 6;
                      return 0;
                  }),
                  0);
        EXPECT_EQ(bytes(memory)[0], 6);
        EXPECT_THAT(refusal([&] { (void)SystemVMemory::create(100, key); }), HasSubstr("taken"));
        const SystemVMemory moved = SystemVMemory::attach_key(key);
    }
    EXPECT_THAT(refusal([&] { (void)SystemVMemory::attach_key(key); }), HasSubstr(std::to_string(key)));
    EXPECT_THAT(refusal([] { (void)SystemVMemory::attach_key(0); }), HasSubstr("none"));
    EXPECT_THAT(refusal([] { (void)SystemVMemory::create(1, 0); }), HasSubstr("none"));
}

TEST_F(SystemV, AForkedChildOfTheMakerDoesNotTakeTheKeyAway) {
    const int key = free_key();
    SystemVMemory memory = SystemVMemory::create(100, key);
    EXPECT_EQ(in_child([&] {
                  const SystemVMemory gone = std::move(memory);
                  return 0;
              }),
              0);
    EXPECT_EQ(SystemVMemory::attach_key(key).size_bytes(), 100u);
    memory = SystemVMemory::create(10);
    EXPECT_NE(refusal([&] { (void)SystemVMemory::attach_key(key); }), "");
}

}  // namespace
}  // namespace trtlab::core::testing
