#pragma once

#include <atomic>
#include <utility>
#include <vector>

#include "python.hpp"
#include "trtlab/core/ref_counted.hpp"

namespace trtlab::bindings {

/// Something of Python's in the hands of C++: the last reference may be dropped on any thread, an engine's callback
/// included, and never takes the GIL. The object joins a lock-free list, and whoever holds the GIL next frees it.
class Garbage : public core::RefCounted {
public:
    /// Frees what has been dropped. Needs the GIL. Cheap if there is nothing.
    static void collect() noexcept {
        if (dropped_.load(std::memory_order_relaxed) != nullptr) collect_all();
    }

protected:
    void dispose() noexcept final;
    /// Its turn has come, with the GIL.
    virtual void free() noexcept { delete this; }

private:
    static void collect_all() noexcept;
    static std::atomic<Garbage*> dropped_;
    Garbage* next_ = nullptr;
};

/// A Python object owned from C++. Its one reference can be shown to Python's cycle collector by one Python object: the
/// one that claims it. All members need the GIL.
class HeldObject final : public Garbage {
public:
    explicit HeldObject(nanobind::object object) : object_(std::move(object)) {}
    nanobind::handle get() const noexcept { return object_; }

    /// False if another object has claimed it.
    bool claim(const void* by) noexcept {
        if (claimed_by_ == nullptr) claimed_by_ = by;
        return claimed_by_ == by;
    }
    void unclaim(const void* by) noexcept {
        if (claimed_by_ == by) claimed_by_ = nullptr;
    }
    /// For the claimer, when the collector found the object to be unreachable.
    void clear() noexcept { object_.reset(); }

private:
    nanobind::object object_;
    const void* claimed_by_ = nullptr;
};

/// Buffers that Python lent for the length of a request. Kept for reuse: `make` and `free` have the GIL, and need no lock.
class BorrowedBuffers final : public Garbage {
public:
    /// For up to `count` buffers. Needs the GIL.
    static core::Ref<BorrowedBuffers> make(std::size_t count);
    /// Deletes what is kept. Needs the GIL.
    static void free_idle() noexcept;

    /// Room for one more, whose address holds until the buffers are released; at most `count` times.
    Py_buffer* next() { return &buffers_.emplace_back(); }
    void forget_last() noexcept { buffers_.pop_back(); }

    /// Whether the memory may be written through the tensors that see it. Not so unless somebody says so.
    bool writable = false;

private:
    BorrowedBuffers() = default;
    ~BorrowedBuffers() override { release_buffers(); }
    void free() noexcept override;
    void release_buffers() noexcept;

    std::vector<Py_buffer> buffers_;
};

}  // namespace trtlab::bindings
