#pragma once

#include <memory>
#include <string>
#include <utility>

#include "python.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/core/ref_counted.hpp"
#include "trtlab/core/tensor.hpp"

namespace trtlab::bindings {

/// Python's MemoryResource, of whatever kind: a share in a C++ one, so that resources can stand on each other across modules.
class [[gnu::visibility("default")]] MemoryHandle {
public:
    explicit MemoryHandle(std::shared_ptr<core::MemoryResource> resource) : resource_(std::move(resource)) {}
    MemoryHandle(const MemoryHandle&) = delete;
    MemoryHandle& operator=(const MemoryHandle&) = delete;
    virtual ~MemoryHandle() {
        // What a resource has kept it gives back when it goes, and with a GPU's memory that is to wait for the GPU.
        const ReleasedGil unlocked;
        resource_.reset();
    }
    const std::shared_ptr<core::MemoryResource>& resource() const noexcept { return resource_; }

private:
    std::shared_ptr<core::MemoryResource> resource_;
};

/// The Python class of one kind of resource. To show another kind, in the module of its layer:
///
///     nb::class_<Resource<core::RingMemory>, MemoryHandle>(module, "RingMemory", "What it does.")
///         .def("__init__",
///              [](Resource<core::RingMemory>* self, const MemoryHandle& upstream, ...) {
///                  new (self) Resource<core::RingMemory>(std::make_shared<core::RingMemory>(upstream.resource(), ...));
///              }, nb::arg("upstream"), ...)
///         .def("stats", ... self.get().stats() ...);
///
/// `name`, `device`, `repr()` and `trtlab.memory.allocate` come with the base. Members that may take a contended lock or
/// wait for a device do so without the GIL.
template <class T>
class Resource final : public MemoryHandle {
public:
    explicit Resource(std::shared_ptr<T> resource) : MemoryHandle(std::move(resource)) {}
    T& get() const noexcept { return static_cast<T&>(*resource()); }
};

/// A block of memory that Python's buffers and tensors share.
struct Block final : core::RefCounted {
    explicit Block(core::Buffer buffer_) : buffer(std::move(buffer_)) {}
    core::Buffer buffer;

protected:
    ~Block() override = default;
};

/// Python's Buffer: part of what somebody owns, seen as an array. Its share is given up by `release`, or when it goes; views
/// and tensors have shares of their own.
class [[gnu::visibility("default")]] PartOfBlock {
public:
    /// Throws InvalidArgument if the array does not fit the range.
    PartOfBlock(core::Ref<const core::RefCounted> owner, const core::BufferView& range, core::DType dtype,
                const core::Shape& shape)
        : owner_(std::move(owner)), range_(range), view_(array(dtype, shape)) {}
    /// The range as bytes.
    PartOfBlock(core::Ref<const core::RefCounted> owner, const core::BufferView& range)
        : PartOfBlock(std::move(owner), range, core::DType::uint8,
                      core::Shape({static_cast<std::int64_t>(range.size_bytes)})) {}
    PartOfBlock(const PartOfBlock&) = delete;
    PartOfBlock(PartOfBlock&&) = default;
    virtual ~PartOfBlock() { release(); }

    bool released() const noexcept { return !owner_; }
    void release() noexcept {
        if (!owner_) return;
        core::Ref<const core::RefCounted> last = std::move(owner_);  // with the GIL: other threads look at it
        // To give back a GPU's memory is to wait for the GPU.
        const ReleasedGil unlocked;
        last = nullptr;
    }

    // All of these throw Closed once it was released.
    const core::Ref<const core::RefCounted>& owner() const {
        if (!owner_) throw core::Closed("this buffer was released: allocate a new one");
        return owner_;
    }
    const core::BufferView& range() const { return (void)owner(), range_; }
    core::Tensor tensor() const { return core::Tensor(view_, owner()); }
    core::Tensor tensor(core::DType dtype, const core::Shape& shape) const {
        return core::Tensor(((void)owner(), array(dtype, shape)), owner_);
    }

private:
    core::TensorView array(core::DType dtype, const core::Shape& shape) const {
        const core::TensorView view(range_.data, dtype, shape, range_.device);
        const std::string what = "an array " + std::string(core::name_of(dtype)) + shape.to_string();
        if (dtype == core::DType::bytes) {
            throw core::InvalidArgument("an array in memory of " + range_.device.to_string() +
                                        " holds numbers, and no byte strings");
        }
        if (view.size_bytes() > range_.size_bytes) {
            throw core::InvalidArgument(what + " has " + std::to_string(view.size_bytes()) + " bytes, and its buffer " +
                                        std::to_string(range_.size_bytes));
        }
        return view;
    }

    core::Ref<const core::RefCounted> owner_;
    core::BufferView range_;
    core::TensorView view_;
};

}  // namespace trtlab::bindings
