#pragma once

#include <utility>

#include "trtlab/core/wait.hpp"

namespace trtlab::core {

/// Owns: an open file, closed when the object goes.
class [[gnu::visibility("default")]] FileDescriptor {
public:
    FileDescriptor() = default;
    explicit FileDescriptor(int fd) noexcept : fd_(fd) {}
    FileDescriptor(FileDescriptor&& other) noexcept : fd_(other.release()) {}
    FileDescriptor& operator=(FileDescriptor&& other) noexcept {
        if (this != &other) reset(other.release());
        return *this;
    }
    ~FileDescriptor() { reset(); }

    /// Another descriptor of the same open file, which no program that this one executes gets. Throws InvalidArgument (no open
    /// descriptor), Error (no number is free).
    static FileDescriptor duplicate(int fd);

    int get() const noexcept { return fd_; }
    explicit operator bool() const noexcept { return fd_ >= 0; }
    [[nodiscard]] int release() noexcept { return std::exchange(fd_, -1); }
    /// Closes what it has.
    void reset(int fd = -1) noexcept;

private:
    int fd_ = -1;
};

/// Sends `fd` to the process at the other end of a Unix socket, beside one byte of data. The sender keeps its own.
/// Blocks while the socket is full, as long as `wait` says. Throws InvalidArgument (no such socket, no such descriptor),
/// Timeout, Closed (the other end is gone), Overloaded (too many are under way); what `wait.on_signal` throws.
void send_descriptor(int socket, int fd, const WaitOptions& wait = {});

/// Receives what `send_descriptor` sent. No program that this one executes gets it.
///
/// The peer is not trusted: what comes beside one byte and one descriptor is closed, and refused. Whether the descriptor is
/// what it should be is for its user to check, as `SharedMemory::attach` does.
/// Blocks until something comes, as long as `wait` says. Throws InvalidArgument (no such socket; a message of another
/// form), Timeout, Closed (the other end is gone); what `wait.on_signal` throws.
FileDescriptor receive_descriptor(int socket, const WaitOptions& wait = {});

}  // namespace trtlab::core
