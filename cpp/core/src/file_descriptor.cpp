#include "trtlab/core/file_descriptor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <string>
#include <system_error>
#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

std::string in_words(int error) { return std::system_category().message(error); }

/// Calls `transfer`, which does not block, until it returns anything but EAGAIN, and waits for `events` in between.
template <class Transfer>
ssize_t when_ready(int socket, short events, const char* doing, const WaitOptions& wait, Transfer transfer) {
    const auto start = std::chrono::steady_clock::now();
    for (;;) {
        const ssize_t result = transfer();
        if (result >= 0) return result;
        if (errno == EINTR) continue;
        if (errno == EPIPE || errno == ECONNRESET)
            throw Closed(std::string("the other end of the socket is gone: ") + doing);
        if (errno == ETOOMANYREFS)
            throw Overloaded(std::string(doing) + ": as many are under way as this user may have (RLIMIT_NOFILE)");
        if (errno != EAGAIN && errno != EWOULDBLOCK) {
            throw InvalidArgument("socket " + std::to_string(socket) + ", " + doing + ": " + in_words(errno) +
                                  "; expected a connected Unix socket, and an open descriptor");
        }
        int left_ms = -1;
        if (wait.timeout != kForever) {
            const auto left =
                std::max(std::chrono::nanoseconds(0), wait.timeout - (std::chrono::steady_clock::now() - start));
            if (left.count() == 0) throw_timeout(wait);
            // Rounded up, so that the last wait is no spinning.
            left_ms = static_cast<int>(
                std::min<std::int64_t>(std::chrono::ceil<std::chrono::milliseconds>(left).count(), 1 << 30));
        }
        pollfd ready{socket, events, 0};
        if (poll(&ready, 1, left_ms) < 0 && errno == EINTR && wait.on_signal != nullptr) wait.on_signal();
    }
}

/// The descriptors in a message: from here on they are ours to close.
std::vector<FileDescriptor> descriptors_of(msghdr& message) {
    std::vector<FileDescriptor> all;
    for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
        if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
        const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (std::size_t i = 0; i < count; ++i) {
            int fd = -1;
            std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof(int));
            all.emplace_back(fd);
        }
    }
    return all;
}

}  // namespace

void FileDescriptor::reset(int fd) noexcept {
    if (fd_ >= 0) close(fd_);
    fd_ = fd;
}

FileDescriptor FileDescriptor::duplicate(int fd) {
    const int made = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (made >= 0) return FileDescriptor(made);
    if (errno == EBADF) throw InvalidArgument("descriptor " + std::to_string(fd) + " is not open");
    throw Error("descriptor " + std::to_string(fd) + " cannot be duplicated: " + in_words(errno));
}

void send_descriptor(int socket, int fd, const WaitOptions& wait) {
    char byte = 0;
    iovec data{&byte, 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &data;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* const part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &fd, sizeof(int));
    when_ready(socket, POLLOUT, "sending a descriptor", wait,
               [&] { return sendmsg(socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL); });
}

FileDescriptor receive_descriptor(int socket, const WaitOptions& wait) {
    char byte = 0;
    iovec data{&byte, 1};
    // Room for more than is wanted, so that a peer who sends more is told from one who does not; the kernel closes what does not
    // fit, and says so.
    alignas(cmsghdr) char control[CMSG_SPACE(4 * sizeof(int))] = {};
    msghdr message{};
    const ssize_t bytes = when_ready(socket, POLLIN, "receiving a descriptor", wait, [&] {
        message = {};
        message.msg_iov = &data;
        message.msg_iovlen = 1;
        message.msg_control = control;
        message.msg_controllen = sizeof(control);
        return recvmsg(socket, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    });
    std::vector<FileDescriptor> received = descriptors_of(message);
    if (bytes == 0 && received.empty()) throw Closed("the other end of the socket is gone: receiving a descriptor");
    const bool cut = (message.msg_flags & (MSG_CTRUNC | MSG_TRUNC)) != 0;
    if (received.size() != 1 || cut) {
        throw InvalidArgument("socket " + std::to_string(socket) + ": expected one byte with one descriptor, got " +
                              std::to_string(received.size()) + (cut ? " and more than fits" : "") +
                              "; all are closed");
    }
    return std::move(received.front());
}

}  // namespace trtlab::core
