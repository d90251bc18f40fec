#include "trtlab/core/shared_memory.hpp"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <thread>
#include <vector>

#include "in_child.hpp"
#include "refusal.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::core::testing {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Access = SharedMemory::Access;

std::size_t open_files() {
    std::size_t count = 0;
    for ([[maybe_unused]] const auto& file : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
    return count;
}

struct Sockets {
    explicit Sockets(int type = SOCK_STREAM) {
        std::array<int, 2> ends{};
        EXPECT_EQ(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, ends.data()), 0);
        here = FileDescriptor(ends[0]);
        there = FileDescriptor(ends[1]);
    }
    FileDescriptor here, there;
};

char* bytes(const SharedMemory& memory) { return static_cast<char*>(memory.data()); }

SharedMemory attach_to(const SharedMemory& memory, std::optional<std::size_t> size = std::nullopt,
                       Access access = Access::read_write, std::size_t offset = 0) {
    return SharedMemory::attach(FileDescriptor::duplicate(memory.fd()), size, access, offset);
}

TEST(SharedMemory, IsZerosThatTwoMappingsSee) {
    const SharedMemory memory = SharedMemory::create(10'000);
    EXPECT_EQ(memory.size_bytes(), 10'000u);
    for (std::size_t i = 0; i < memory.size_bytes(); ++i) ASSERT_EQ(bytes(memory)[i], 0);
    const SharedMemory other = attach_to(memory);
    EXPECT_EQ(other.size_bytes(), 10'000u);
    EXPECT_NE(other.data(), memory.data());
    bytes(other)[9'999] = 7;
    EXPECT_EQ(bytes(memory)[9'999], 7);
    EXPECT_EQ(memory.view().device, Device{});
}

TEST(SharedMemory, APartBeginsAnywhere) {
    const SharedMemory memory = SharedMemory::create(3 * 4096);
    for (const std::size_t offset : {0, 1, 4095, 4096, 5000}) {
        const SharedMemory part = attach_to(memory, 100, Access::read_write, offset);
        EXPECT_EQ(part.size_bytes(), 100u);
        bytes(part)[99] = static_cast<char>(offset % 100 + 1);
        EXPECT_EQ(bytes(memory)[offset + 99], static_cast<char>(offset % 100 + 1));
    }
    EXPECT_EQ(attach_to(memory, std::nullopt, Access::read_only, 4000).size_bytes(), 3u * 4096 - 4000);
}

TEST(SharedMemory, NobodyChangesItsSize) {
    const SharedMemory memory = SharedMemory::create(8192);
    for (const off_t size : {0, 4096, 16'384}) {
        EXPECT_EQ(ftruncate(memory.fd(), size), -1);
        EXPECT_EQ(errno, EPERM);
    }
    EXPECT_EQ(fcntl(memory.fd(), F_ADD_SEALS, F_SEAL_WRITE), -1);
    EXPECT_NE(fcntl(memory.fd(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(SharedMemory, WhatOthersMayOnlyReadTheKernelKeepsThemFromWriting) {
    const SharedMemory memory = SharedMemory::create(4096, Access::read_only);
    EXPECT_THAT(refusal([&] { (void)attach_to(memory); }), HasSubstr("read_only"));
    const SharedMemory reader = attach_to(memory, 4096, Access::read_only);
    EXPECT_EQ(reader.access(), Access::read_only);
    EXPECT_EQ(mprotect(reader.data(), 4096, PROT_READ | PROT_WRITE), -1);
    const char byte = 1;
    EXPECT_EQ(pwrite(memory.fd(), &byte, 1, 0), -1);
    bytes(memory)[5] = 42;
    EXPECT_EQ(bytes(reader)[5], 42);
}

TEST(SharedMemory, NothingIsNoSize) {
    EXPECT_THAT(refusal([] { (void)SharedMemory::create(0); }), HasSubstr("at least 1 byte"));
    const SharedMemory memory = SharedMemory::create(10);
    EXPECT_THAT(refusal([&] { (void)attach_to(memory, 0); }), HasSubstr("at least 1 byte"));
    EXPECT_THAT(refusal([] { (void)SharedMemory::create(10, Access::read_write, std::string(300, 'x')); }),
                HasSubstr("too long"));
}

TEST(SharedMemory, MoreThanThereIsIsOutOfMemory) {
    const std::size_t before = open_files();
    for (const std::size_t size : {std::size_t{1} << 60, std::size_t{1} << 63, std::numeric_limits<std::size_t>::max()})
        EXPECT_THROW((void)SharedMemory::create(size), OutOfMemory);
    EXPECT_EQ(open_files(), before);
}

TEST(SharedMemory, AttachRefusesWhatIsNoSealedMemory) {
    const std::size_t before = open_files();
    const auto refused = [](FileDescriptor fd) {
        return refusal([&] { (void)SharedMemory::attach(std::move(fd), 4096); });
    };
    std::array<int, 2> pipe_ends{};
    ASSERT_EQ(pipe(pipe_ends.data()), 0);
    FileDescriptor write_end(pipe_ends[1]);
    EXPECT_THAT(refused(FileDescriptor(pipe_ends[0])), HasSubstr("another kind"));
    EXPECT_THAT(refused(FileDescriptor(open("/proc/self/exe", O_RDONLY | O_CLOEXEC))), HasSubstr("seal"));
    EXPECT_THAT(refused(FileDescriptor(open("/", O_RDONLY | O_CLOEXEC))), HasSubstr("another kind"));
    EXPECT_THAT(refused(FileDescriptor()), HasSubstr("descriptor -1"));

    const auto memfd = [](unsigned flags, int seals, off_t size) {
        FileDescriptor fd(memfd_create("test", MFD_CLOEXEC | flags));
        EXPECT_EQ(ftruncate(fd.get(), size), 0);
        EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, seals), seals == 0 && flags == 0 ? -1 : 0);
        return fd;
    };
    EXPECT_THAT(refused(memfd(0, 0, 4096)), HasSubstr("not sealed"));
    EXPECT_THAT(refused(memfd(MFD_ALLOW_SEALING, 0, 4096)), HasSubstr("not sealed"));
    EXPECT_THAT(refused(memfd(MFD_ALLOW_SEALING, F_SEAL_GROW, 4096)), HasSubstr("not sealed"));
    EXPECT_THAT(refused(memfd(MFD_ALLOW_SEALING, F_SEAL_SHRINK, 4096)), HasSubstr("not sealed"));
    EXPECT_THAT(refused(memfd(MFD_ALLOW_SEALING, F_SEAL_SHRINK | F_SEAL_GROW, 0)), HasSubstr("empty"));
    EXPECT_THAT(refused(memfd(MFD_ALLOW_SEALING, F_SEAL_SHRINK | F_SEAL_GROW, 4095)),
                AllOf(HasSubstr("4095"), HasSubstr("4096")));
    write_end.reset();
    EXPECT_EQ(open_files(), before);
}

TEST(SharedMemory, AttachTakesExactlyTheRangesThatAreInside) {
    constexpr std::size_t kThere = 10'000, kMax = std::numeric_limits<std::size_t>::max();
    const SharedMemory memory = SharedMemory::create(kThere);
    std::mt19937_64 random(1);
    const std::array<std::size_t, 14> corners{
        0,          1,    4095,     4096,     4097,         kThere - 1,    kThere,
        kThere + 1, kMax, kMax - 1, kMax / 2, kMax / 2 + 1, kMax - kThere, std::size_t{1} << 32};
    const auto number = [&]() -> std::size_t {
        return random() % 2 == 0 ? corners[random() % corners.size()] : random() % (kThere + 100);
    };
    std::size_t inside = 0;
    for (int i = 0; i < 3000; ++i) {
        const std::size_t offset = number(), size = number();
        const bool fits = size > 0 && offset < kThere && size <= kThere - offset;
        try {
            const SharedMemory part = attach_to(memory, size, Access::read_write, offset);
            EXPECT_TRUE(fits) << offset << " " << size;
            EXPECT_EQ(part.size_bytes(), size);
            bytes(part)[0] = 1;
            bytes(part)[size - 1] = 1;
            ++inside;
        } catch (const InvalidArgument&) {
            EXPECT_FALSE(fits) << offset << " " << size;
        }
    }
    EXPECT_GT(inside, 300u);
}

TEST(SharedMemory, MovesWithoutMappingAnew) {
    const std::size_t before = open_files();
    {
        SharedMemory first = SharedMemory::create(100), second = SharedMemory::create(200);
        const void* const where = second.data();
        first = std::move(second);
        EXPECT_EQ(first.data(), where);
        EXPECT_EQ(first.size_bytes(), 200u);
        EXPECT_EQ(second.data(), nullptr);
        EXPECT_EQ(second.fd(), -1);
        EXPECT_EQ(open_files(), before + 1);
        SharedMemory& same = first;
        first = std::move(same);
        EXPECT_EQ(first.data(), where);
        const SharedMemory third(std::move(first));
        EXPECT_EQ(third.data(), where);
    }
    EXPECT_EQ(open_files(), before);
}

TEST(SharedMemory, AForkedChildHasItAndLeavesItToTheParent) {
    SharedMemory memory = SharedMemory::create(4096);
    EXPECT_EQ(in_child([&] {
                  bytes(memory)[0] = 5;
                  const SharedMemory gone = std::move(memory);
                  return 3;
              }),
              3);
    EXPECT_EQ(bytes(memory)[0], 5);
    bytes(memory)[1] = 1;
}

TEST(SharedMemory, GoesToAnotherProcessThroughASocket) {
    for (const int type : {SOCK_STREAM, SOCK_SEQPACKET}) {
        Sockets sockets(type);
        const SharedMemory memory = SharedMemory::create(5000);
        bytes(memory)[4999] = 11;
        send_descriptor(sockets.here.get(), memory.fd());
        EXPECT_EQ(in_child([&] {
                      FileDescriptor fd = receive_descriptor(sockets.there.get());
                      if ((fcntl(fd.get(), F_GETFD) & FD_CLOEXEC) == 0) return 1;
                      const SharedMemory mine = SharedMemory::attach(std::move(fd), 5000);
                      bytes(mine)[0] = 12;
                      return bytes(mine)[4999] == 11 ? 0 : 2;
                  }),
                  0);
        EXPECT_EQ(bytes(memory)[0], 12);
    }
}

/// What a peer sends that means no good: `count` descriptors beside `bytes` bytes.
void send_raw(int socket, std::size_t count, std::size_t size) {
    std::vector<char> data(size);
    iovec part{data.data(), data.size()};
    std::vector<int> fds(count, socket);
    alignas(cmsghdr) std::array<char, 2048> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (count > 0) {
        message.msg_control = control.data();
        message.msg_controllen = CMSG_SPACE(count * sizeof(int));
        cmsghdr* const header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(count * sizeof(int));
        std::memcpy(CMSG_DATA(header), fds.data(), count * sizeof(int));
    }
    ASSERT_EQ(sendmsg(socket, &message, 0), static_cast<ssize_t>(size));
}

TEST(ReceiveDescriptor, RefusesWhatIsNotOneDescriptorAndKeepsNone) {
    Sockets sockets(SOCK_SEQPACKET);
    const std::size_t before = open_files();
    for (const auto& [count, size] :
         {std::pair<std::size_t, std::size_t>{0, 1}, {2, 1}, {4, 1}, {5, 1}, {200, 1}, {1, 2}, {3, 1000}}) {
        send_raw(sockets.here.get(), count, size);
        EXPECT_THAT(refusal([&] { (void)receive_descriptor(sockets.there.get()); }), HasSubstr("one descriptor"));
        EXPECT_EQ(open_files(), before) << count;
    }
    send_raw(sockets.here.get(), 1, 1);
    EXPECT_TRUE(receive_descriptor(sockets.there.get()));  // the socket goes on
}

TEST(ReceiveDescriptor, TellsThatTheOtherEndIsGone) {
    Sockets sockets;
    sockets.here.reset();
    EXPECT_THROW((void)receive_descriptor(sockets.there.get()), Closed);
    EXPECT_THROW(send_descriptor(sockets.there.get(), 0), Closed);
}

TEST(ReceiveDescriptor, WaitsAsLongAsItIsTold) {
    Sockets sockets;
    EXPECT_THROW((void)receive_descriptor(sockets.there.get(), std::chrono::milliseconds(0)), Timeout);
    EXPECT_THROW((void)receive_descriptor(sockets.there.get(), std::chrono::milliseconds(2)), Timeout);
    std::thread sender([&] { send_descriptor(sockets.here.get(), 0); });
    EXPECT_TRUE(receive_descriptor(sockets.there.get()));
    sender.join();
}

TEST(SendDescriptor, WaitsWhileTheSocketIsFull) {
    Sockets sockets;
    const auto fill = [&] {
        for (;;) send_descriptor(sockets.here.get(), sockets.there.get(), std::chrono::milliseconds(0));
    };
    EXPECT_THROW(fill(), Timeout);
    std::atomic<bool> sent{false};
    std::thread sender([&] {
        send_descriptor(sockets.here.get(), sockets.there.get());
        sent.store(true);
    });
    // The kernel calls a socket writable when a good part of it is free.
    while (!sent.load()) {
        try {
            (void)receive_descriptor(sockets.there.get(), std::chrono::milliseconds(0));
        } catch (const Timeout&) {
            std::this_thread::yield();
        }
    }
    sender.join();
}

TEST(ReceiveDescriptor, WhatIsNoSocketIsRefused) {
    std::array<int, 2> ends{};
    ASSERT_EQ(pipe(ends.data()), 0);
    const FileDescriptor reader(ends[0]), writer(ends[1]);
    EXPECT_THAT(refusal([&] { (void)receive_descriptor(reader.get()); }), HasSubstr("Unix socket"));
    EXPECT_THAT(refusal([&] { (void)receive_descriptor(-1); }), HasSubstr("socket -1"));
    EXPECT_THAT(refusal([&] { send_descriptor(writer.get(), 0); }), HasSubstr("Unix socket"));
    Sockets sockets;
    EXPECT_THAT(refusal([&] { send_descriptor(sockets.here.get(), -1); }), HasSubstr("open descriptor"));
    EXPECT_THAT(refusal([&] { (void)FileDescriptor::duplicate(-1); }), HasSubstr("not open"));
}

void (*const kIgnore)(int) = [](int) {};

TEST(ReceiveDescriptor, ASignalHandlerOfTheCallersChoiceEndsTheWait) {
    Sockets sockets;
    struct sigaction action{}, before{};
    action.sa_handler = kIgnore;  // without SA_RESTART
    sigaction(SIGUSR1, &action, &before);
    const pthread_t self = pthread_self();
    std::atomic<bool> ended{false};
    std::thread signaller([&] {
        // Again and again: the first may come before the wait.
        while (!ended.load()) {
            pthread_kill(self, SIGUSR1);
            std::this_thread::yield();
        }
    });
    const SignalHook hook = [] { throw Cancelled("interrupted"); };
    EXPECT_THROW((void)receive_descriptor(sockets.there.get(), {kForever, hook}), Cancelled);
    ended.store(true);
    signaller.join();
    sigaction(SIGUSR1, &before, nullptr);
}

}  // namespace
}  // namespace trtlab::core::testing
