#pragma once

#include <cstddef>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/device.hpp"

namespace trtlab::core {

/// Where blocks of memory come from: the host, a GPU, or a suballocator on top of another resource.
///
/// The shape is std::pmr::memory_resource's, with the device added, and with an alignment that is honoured or refused,
/// never dropped. The content of the memory is never touched, so that a resource can be of memory that the CPU can't read.
/// Threads: all members may be called from any thread, unless a derived class says otherwise.
class [[gnu::visibility("default")]] MemoryResource {
public:
    /// A GPU's texture alignment, and more than any CPU's vector needs.
    static constexpr std::size_t kAlignment = 256;

    MemoryResource() = default;
    MemoryResource(const MemoryResource&) = delete;
    MemoryResource& operator=(const MemoryResource&) = delete;
    virtual ~MemoryResource();

    /// At least `size_bytes` bytes at a multiple of `alignment`. Zero bytes are a block of their own, too: each call
    /// gives an address that no other live block has. Throws OutOfMemory (who asked for how much, and where),
    /// InvalidArgument (an alignment that is no power of two, or more than the resource can give).
    void* allocate(std::size_t size_bytes, std::size_t alignment = kAlignment) {
        // By hand: where the CPU's instruction may not be assumed, std::has_single_bit is a call.
        if (alignment == 0 || (alignment & (alignment - 1)) != 0) [[unlikely]]
            throw_no_power_of_two(alignment);
        return do_allocate(size_bytes == 0 ? 1 : size_bytes, alignment);
    }

    /// Gives back what `allocate` gave for the same size and alignment. Null is ignored. Never throws: what goes wrong is
    /// logged.
    void deallocate(void* block, std::size_t size_bytes, std::size_t alignment = kAlignment) noexcept {
        if (block != nullptr) do_deallocate(block, size_bytes == 0 ? 1 : size_bytes, alignment);
    }

    /// Where the blocks are.
    virtual Device device() const noexcept = 0;
    /// For messages and reports: "device memory of cuda:0".
    virtual std::string name() const = 0;

protected:
    /// `size_bytes` is at least 1, and `alignment` a power of two.
    virtual void* do_allocate(std::size_t size_bytes, std::size_t alignment) = 0;
    virtual void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept = 0;

private:
    [[noreturn]] void throw_no_power_of_two(std::size_t alignment) const;
};

/// What pages blocks of host memory have.
enum class Pages {
    normal,
    transparent_huge,  ///< the kernel is asked for huge pages, and gives them when it can (madvise)
    huge_2mib,         ///< of those that the administrator reserved (hugetlb)
    huge_1gib,
};

/// Memory of the host. Any alignment that fits the address space is honoured.
///
/// Without options it is from the C++ runtime. With any, a block has whole pages to itself, mapped for it and given back to
/// the system with it: for few and large blocks, such as what a suballocator cuts up.
class [[gnu::visibility("default")]] HostMemory final : public MemoryResource {
public:
    struct Options {
        Pages pages = Pages::normal;
        /// The NUMA node that all pages lie on; they are touched when they are allocated, so that it shows at once if the
        /// node has too few.
        std::optional<int> node = std::nullopt;
        /// Has the pages made when the block is, near the calling thread if no node is named, rather than one by one when
        /// they are used.
        bool touch = false;
        /// What the system refuses is thrown. Otherwise it is left out: normal pages for huge ones, any node for the one
        /// named. `left_out()` says what and why.
        bool strict = true;
    };

    HostMemory() = default;
    /// Throws InvalidArgument if, with `strict`, the system lacks the node or such pages; the message says what to do.
    explicit HostMemory(const Options& options);
    ~HostMemory() override;

    Device device() const noexcept override { return {}; }
    std::string name() const override;

    /// The first thing that was left out since `strict` is false, in words; empty if there was none.
    std::string left_out() const;

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override;
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment) noexcept override;

private:
    bool mapped() const noexcept;
    /// Bytes of the pages that a block takes; 0 if there is no such number.
    std::size_t mapped_bytes(std::size_t size_bytes) const noexcept;
    void touch(void* block, std::size_t size_bytes, Pages pages);
    void place_on_node(void* block, std::size_t size_bytes, Pages pages);
    /// Throws Failure with `problem`, or notes it.
    template <class Failure>
    void fail(const std::string& problem);

    Options options_;
    std::size_t page_bytes_ = 0;
    mutable std::mutex mutex_;
    std::string left_out_;
};

/// A range of memory of some device. Owns nothing.
struct BufferView {
    void* data = nullptr;
    std::size_t size_bytes = 0;
    Device device = {};

    /// Part of the range. Throws InvalidArgument if it reaches over the end.
    BufferView slice(std::size_t offset_bytes, std::size_t size_bytes_) const;
};

/// One block of a `MemoryResource`, given back when the buffer goes.
/// Owns: the block, and a share in the resource.
/// Threads: as `std::unique_ptr`.
class Buffer {
public:
    Buffer() = default;
    /// Throws as `MemoryResource::allocate`.
    Buffer(std::shared_ptr<MemoryResource> resource, std::size_t size_bytes,
           std::size_t alignment = MemoryResource::kAlignment)
        : resource_(std::move(resource)), alignment_(alignment) {
        data_ = resource_->allocate(size_bytes, alignment);
        size_bytes_ = size_bytes;
    }
    Buffer(Buffer&& other) noexcept
        : resource_(std::move(other.resource_)),
          data_(std::exchange(other.data_, nullptr)),
          size_bytes_(std::exchange(other.size_bytes_, 0)),
          alignment_(other.alignment_) {}
    Buffer& operator=(Buffer&& other) noexcept {
        if (this != &other) {
            reset();
            resource_ = std::move(other.resource_);
            data_ = std::exchange(other.data_, nullptr);
            size_bytes_ = std::exchange(other.size_bytes_, 0);
            alignment_ = other.alignment_;
        }
        return *this;
    }
    ~Buffer() { reset(); }

    void* data() const noexcept { return data_; }
    std::size_t size_bytes() const noexcept { return size_bytes_; }
    Device device() const noexcept { return resource_ ? resource_->device() : Device{}; }
    BufferView view() const noexcept { return {data_, size_bytes_, device()}; }
    explicit operator bool() const noexcept { return data_ != nullptr; }

    /// Gives the block back now. Idempotent.
    void reset() noexcept {
        if (data_ != nullptr)
            resource_->deallocate(std::exchange(data_, nullptr), std::exchange(size_bytes_, 0), alignment_);
        resource_.reset();
    }

private:
    std::shared_ptr<MemoryResource> resource_;
    void* data_ = nullptr;
    std::size_t size_bytes_ = 0;
    std::size_t alignment_ = MemoryResource::kAlignment;
};

/// One line of a memory report: who holds how much of what.
struct MemoryUse {
    std::string owner;  ///< a model's name, or the budget that several share: "execution tokens of cuda:0"
    std::string what;   ///< "weights", "activations", "inputs and outputs", "outputs kept for reuse", ...
    Device device = {};
    std::size_t size_bytes = 0;
    friend bool operator==(const MemoryUse&, const MemoryUse&) = default;
};

}  // namespace trtlab::core
