#include "trtlab/core/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <limits>
#include <system_error>
#include <utility>

#include "trtlab/core/error.hpp"

// Newer than the headers of some systems; Linux's own numbers.
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

namespace trtlab::core {
namespace {

constexpr int kSizeSeals = F_SEAL_SHRINK | F_SEAL_GROW;

std::string in_words(int error) { return std::system_category().message(error); }

FileDescriptor make_memory_file(const std::string& name) {
    constexpr unsigned kFlags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
    int fd = memfd_create(name.c_str(), kFlags | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) fd = memfd_create(name.c_str(), kFlags);  // a kernel before 6.3
    if (fd >= 0) return FileDescriptor(fd);
    const int error = errno;
    if (error == EINVAL)
        throw InvalidArgument("shared memory: a name of " + std::to_string(name.size()) + " bytes is too long");
    throw OutOfMemory("shared memory '" + name + "' cannot be made: " + in_words(error));
}

/// Bytes of sealed memory that another process made. Throws InvalidArgument for everything else.
std::size_t sealed_bytes(int fd) {
    const auto refuse = [fd](const std::string& why) {
        throw InvalidArgument("descriptor " + std::to_string(fd) + " is no shared memory to attach to: " + why);
    };
    struct stat status{};
    if (fstat(fd, &status) != 0) refuse(in_words(errno));
    if (!S_ISREG(status.st_mode)) refuse("expected a memfd, got a file of another kind");
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0) refuse("expected a memfd, got a file that knows no seals");
    if ((seals & kSizeSeals) != kSizeSeals) {
        refuse(
            "its size is not sealed (F_SEAL_SHRINK, F_SEAL_GROW): whoever made it could take it away under a reader");
    }
    if (status.st_size <= 0) refuse("it is empty");
    return static_cast<std::size_t>(status.st_size);
}

}  // namespace

SharedMemory::SharedMemory(FileDescriptor fd, std::size_t offset_bytes, std::size_t size_bytes, Access access)
    : fd_(std::move(fd)),
      before_bytes_(offset_bytes % static_cast<std::size_t>(sysconf(_SC_PAGESIZE))),
      access_(access) {
    const int protection = access == Access::read_write ? PROT_READ | PROT_WRITE : PROT_READ;
    // The offset and the size are within the file's, whose size the kernel keeps in a signed number.
    void* const mapping = mmap(nullptr, before_bytes_ + size_bytes, protection, MAP_SHARED, fd_.get(),
                               static_cast<off_t>(offset_bytes - before_bytes_));
    if (mapping == MAP_FAILED) {
        const int error = errno;
        const std::string what = "shared memory of " + std::to_string(size_bytes) + " bytes cannot be mapped: ";
        if (error == EACCES || error == EPERM)
            throw InvalidArgument(what + "it may not be written here; attach with Access::read_only");
        throw OutOfMemory(what + in_words(error));
    }
    view_ = {static_cast<char*>(mapping) + before_bytes_, size_bytes, {}};
}

SharedMemory SharedMemory::create(std::size_t size_bytes, Access others, const std::string& name) {
    if (size_bytes == 0) throw InvalidArgument("shared memory '" + name + "': expected a size of at least 1 byte");
    const auto refuse = [&](const char* call, int error) {
        throw OutOfMemory("shared memory '" + name + "' of " + std::to_string(size_bytes) + " bytes (" + call +
                          "): " + in_words(error));
    };
    if (size_bytes > static_cast<std::size_t>(std::numeric_limits<off_t>::max())) refuse("ftruncate", EFBIG);
    FileDescriptor fd = make_memory_file(name);
    if (ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) refuse("ftruncate", errno);
    const int file = fd.get();
    // Mapped before it is sealed: what may not be written from now on, this process still writes.
    SharedMemory made(std::move(fd), 0, size_bytes, Access::read_write);
    const int against_writers = others == Access::read_only ? F_SEAL_FUTURE_WRITE : 0;
    if (fcntl(file, F_ADD_SEALS, kSizeSeals | against_writers | F_SEAL_SEAL) != 0) refuse("F_ADD_SEALS", errno);
    return made;
}

SharedMemory SharedMemory::attach(FileDescriptor fd, std::optional<std::size_t> size_bytes, Access access,
                                  std::size_t offset_bytes) {
    const std::size_t there = sealed_bytes(fd.get());
    if (offset_bytes >= there || size_bytes.value_or(1) > there - offset_bytes) {
        throw InvalidArgument("shared memory behind descriptor " + std::to_string(fd.get()) + " has " +
                              std::to_string(there) + " bytes: expected " +
                              (size_bytes ? std::to_string(*size_bytes) : std::string("some")) + " from byte " +
                              std::to_string(offset_bytes) + " on");
    }
    const std::size_t size = size_bytes.value_or(there - offset_bytes);
    if (size == 0) throw InvalidArgument("shared memory: expected a size of at least 1 byte");
    return SharedMemory(std::move(fd), offset_bytes, size, access);
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : fd_(std::move(other.fd_)),
      view_(std::exchange(other.view_, {})),
      before_bytes_(std::exchange(other.before_bytes_, 0)),
      access_(other.access_) {}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
    SharedMemory taken(std::move(other));
    std::swap(fd_, taken.fd_);
    std::swap(view_, taken.view_);
    std::swap(before_bytes_, taken.before_bytes_);
    std::swap(access_, taken.access_);
    return *this;
}

SharedMemory::~SharedMemory() {
    if (view_.data != nullptr) munmap(static_cast<char*>(view_.data) - before_bytes_, before_bytes_ + view_.size_bytes);
}

}  // namespace trtlab::core
