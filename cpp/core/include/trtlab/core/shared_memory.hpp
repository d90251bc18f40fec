#pragma once

#include <cstddef>
#include <optional>
#include <string>

#include "trtlab/core/file_descriptor.hpp"
#include "trtlab/core/memory.hpp"

namespace trtlab::core {

/// Memory that several processes see, behind a descriptor without a name (memfd): it goes with the last process that has
/// it, however that ends.
///
/// Its size is sealed, so that nobody can take pages away under a reader. The content may change at any moment: who reads what
/// another process writes copies first, and checks the copy.
///
/// Owns: the descriptor and the mapping.
/// Threads: as a buffer. After a fork, both processes have it.
class [[gnu::visibility("default")]] SharedMemory {
public:
    enum class Access {
        read_write,
        read_only,
    };

    /// New memory, of zeros, which this process may write; `others` is what whoever attaches to it may do, and the kernel sees
    /// to it. Throws InvalidArgument (no bytes), OutOfMemory.
    static SharedMemory create(std::size_t size_bytes, Access others = Access::read_write,
                               const std::string& name = "trtlab");

    /// Part of memory that another process made, all of it if no size is expected. The descriptor is not trusted. Throws
    /// InvalidArgument, with what was wrong: it is no memory, it is not sealed, has other than the bytes expected, or may
    /// not be written; OutOfMemory (no addresses left).
    static SharedMemory attach(FileDescriptor fd, std::optional<std::size_t> size_bytes = std::nullopt,
                               Access access = Access::read_write, std::size_t offset_bytes = 0);

    SharedMemory(SharedMemory&& other) noexcept;
    SharedMemory& operator=(SharedMemory&& other) noexcept;
    ~SharedMemory();

    void* data() const noexcept { return view_.data; }
    std::size_t size_bytes() const noexcept { return view_.size_bytes; }
    /// Not to be written if the access is read-only.
    const BufferView& view() const noexcept { return view_; }
    Access access() const noexcept { return access_; }
    /// For `send_descriptor`.
    int fd() const noexcept { return fd_.get(); }

private:
    SharedMemory(FileDescriptor fd, std::size_t offset_bytes, std::size_t size_bytes, Access access);

    FileDescriptor fd_;
    BufferView view_;
    std::size_t before_bytes_ = 0;  ///< from the beginning of the mapping
    Access access_ = Access::read_write;
};

/// Memory that several processes see, the old way: a segment of System V with a number for a name. Only this user's processes
/// may attach.
///
/// A segment without a key is marked for removal when it is made, so that it goes with the last process that has it,
/// however that ends. One with a key stays findable until its maker disables attachment or goes; a maker that was killed
/// leaves it behind (`ipcrm -M key`).
///
/// Owns: the attachment.
/// Threads: as a buffer. After a fork, both processes have it; only the maker removes it.
class [[gnu::visibility("default")]] SystemVMemory {
public:
    /// New memory, of zeros. Throws InvalidArgument (no bytes, more than the system allows, the key is taken), OutOfMemory.
    static SystemVMemory create(std::size_t size_bytes, std::optional<int> key = std::nullopt);
    /// Throws InvalidArgument: there is no such segment (any more), attachment is disabled, it is not this user's, or
    /// has fewer bytes than expected.
    static SystemVMemory attach(int id, std::optional<std::size_t> size_bytes = std::nullopt);
    /// As `attach`, for what was made with a key.
    static SystemVMemory attach_key(int key, std::optional<std::size_t> size_bytes = std::nullopt);

    SystemVMemory(SystemVMemory&& other) noexcept;
    SystemVMemory& operator=(SystemVMemory&& other) noexcept;
    ~SystemVMemory();

    void* data() const noexcept { return view_.data; }
    std::size_t size_bytes() const noexcept { return view_.size_bytes; }
    const BufferView& view() const noexcept { return view_; }
    /// For `attach` in another process.
    int id() const noexcept { return id_; }
    /// From now on nobody attaches; those who have, keep it. For its maker and for others of this user. Idempotent. Throws
    /// Error.
    void disable_attachment();

private:
    SystemVMemory(int id, void* data, std::size_t size_bytes, bool owns_key) noexcept
        : id_(id), owns_key_(owns_key), view_{data, size_bytes, {}} {}

    int id_ = -1;
    bool owns_key_ = false;
    ForkGuard fork_;
    BufferView view_;
};

}  // namespace trtlab::core
