#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/device.hpp"
#include "trtlab/core/dtype.hpp"
#include "trtlab/core/ref_counted.hpp"

namespace trtlab::core {

/// The highest rank carried. TensorRT's own limit is 8 too (`nvinfer1::Dims::MAX_DIMS`).
inline constexpr std::size_t kMaxRank = 8;

/// Alignment in bytes of memory that trtlab allocates for tensors: a cache line, and AVX-512's vector size.
inline constexpr std::size_t kTensorAlignment = 64;

/// a * b, or InvalidArgument when it does not fit. Every size that comes from outside passes through here.
std::size_t checked_mul(std::size_t a, std::size_t b);

/// Up to `kMaxRank` extents (or strides), stored in place.
class Shape {
public:
    Shape() = default;
    Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
    /// Throws InvalidArgument when there are more than `kMaxRank`.
    explicit Shape(std::span<const std::int64_t> dims);

    std::size_t rank() const noexcept { return rank_; }
    std::int64_t operator[](std::size_t i) const noexcept { return dims_[i]; }
    std::int64_t& operator[](std::size_t i) noexcept { return dims_[i]; }
    const std::int64_t* begin() const noexcept { return dims_.data(); }
    const std::int64_t* end() const noexcept { return dims_.data() + rank_; }
    const std::int64_t* data() const noexcept { return dims_.data(); }

    /// The product of the extents; 1 for a scalar. Throws InvalidArgument on a negative extent or an overflow.
    std::size_t elements() const;

    /// "[1, 3, 224, 224]"
    std::string to_string() const;

    friend bool operator==(const Shape& a, const Shape& b) noexcept {
        return a.rank_ == b.rank_ && std::equal(a.begin(), a.end(), b.begin());
    }

private:
    std::array<std::int64_t, kMaxRank> dims_{};
    std::size_t rank_ = 0;
};

/// Where a tensor is and how it is laid out. Owns nothing: valid as long as whoever owns `data`. The memory may be one that
/// the host can't read: see `device`.
class TensorView {
public:
    TensorView() = default;

    /// A dense, row-major tensor. Throws InvalidArgument if the size overflows.
    TensorView(void* data, DType dtype, const Shape& shape, Device device = {});

    /// Any layout; `strides_bytes` may be zero or negative. Throws InvalidArgument if the ranks differ.
    TensorView(void* data, DType dtype, const Shape& shape, const Shape& strides_bytes, Device device = {});

    void* data() const noexcept { return data_; }
    template <class T>
    T* data_as() const noexcept {
        return static_cast<T*>(data_);
    }
    DType dtype() const noexcept { return dtype_; }
    Device device() const noexcept { return device_; }
    const Shape& shape() const noexcept { return shape_; }
    const Shape& strides_bytes() const noexcept { return strides_bytes_; }
    std::size_t elements() const noexcept { return elements_; }
    /// elements x element size: what a dense copy occupies (without the payload of byte strings).
    std::size_t size_bytes() const noexcept { return elements_ * size_of(dtype_); }
    bool contiguous() const noexcept { return contiguous_; }

    /// Copies the elements, densely and in row-major order, to `destination`, which has room for `size_bytes()`. Host
    /// memory only.
    void copy_to(void* destination) const noexcept;

private:
    void* data_ = nullptr;
    std::size_t elements_ = 0;
    Shape shape_;
    Shape strides_bytes_;
    Device device_;
    DType dtype_ = DType::float32;
    bool contiguous_ = true;
};

/// A point in the work of some device after which memory may be read, such as an event in a CUDA stream. Engines of that
/// device know what is behind it.
class [[gnu::visibility("default")]] Fence : public RefCounted {
protected:
    ~Fence() override;
};

/// A view and a share in what keeps its memory alive. Cheap to copy; copies see the same memory.
class Tensor : public TensorView {
public:
    Tensor() = default;

    /// `owner` keeps `view.data()` alive. An empty owner makes a borrowed tensor: the caller vouches for the memory.
    explicit Tensor(const TensorView& view, Ref<const RefCounted> owner = {})
        : TensorView(view), owner_(std::move(owner)) {}

    /// New, uninitialised memory (empty strings for `bytes`), aligned to `kTensorAlignment`. Throws OutOfMemory.
    static Tensor allocate(DType dtype, const Shape& shape);

    /// A dense copy with memory of its own, payload of byte strings included. Throws OutOfMemory, and InvalidArgument if the
    /// host can't read the memory.
    static Tensor copy_of(const TensorView& view);

    /// A `bytes` tensor that owns copies of `values`, in row-major order. Throws InvalidArgument if the counts differ.
    static Tensor from_strings(std::span<const std::string_view> values, const Shape& shape);

    const Ref<const RefCounted>& owner() const noexcept { return owner_; }

    /// When the memory may be read; empty: now. What models answer is ready.
    const Ref<const Fence>& fence() const noexcept { return fence_; }
    void set_fence(Ref<const Fence> fence) noexcept { fence_ = std::move(fence); }

private:
    Ref<const RefCounted> owner_;
    Ref<const Fence> fence_;
};

/// Host memory that grows when it must and is kept otherwise; what recycled outputs are made of.
/// Owns: one block aligned to `kTensorAlignment`.
class HostBuffer {
public:
    HostBuffer() = default;
    HostBuffer(HostBuffer&&) noexcept = default;
    HostBuffer& operator=(HostBuffer&&) noexcept = default;

    /// At least `size_bytes` bytes; the content is lost when it grows. Throws OutOfMemory and keeps the old block.
    void* reserve(std::size_t size_bytes);
    void* data() const noexcept { return block_.get(); }
    std::size_t capacity_bytes() const noexcept { return block_ ? capacity_bytes_ : 0; }

private:
    struct Free {
        void operator()(void* block) const noexcept;
    };
    std::unique_ptr<void, Free> block_;
    std::size_t capacity_bytes_ = 0;
};

}  // namespace trtlab::core
