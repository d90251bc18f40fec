#include "trtlab/core/tensor.hpp"

#include <cstring>
#include <limits>
#include <new>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

void* allocate_aligned(std::size_t size_bytes) {
    void* block = ::operator new(size_bytes == 0 ? 1 : size_bytes, std::align_val_t(kTensorAlignment), std::nothrow);
    if (block == nullptr) {
        throw OutOfMemory("cannot allocate " + std::to_string(size_bytes) + " bytes of host memory for a tensor");
    }
    return block;
}

Shape dense_strides_bytes(DType dtype, const Shape& shape) {
    Shape strides = shape;
    // Extents may be zero while others are huge: the product that elements() checks is then 0, this one is not.
    std::uint64_t stride = size_of(dtype);
    for (std::size_t axis = shape.rank(); axis-- > 0;) {
        strides[axis] = static_cast<std::int64_t>(stride);
        stride *= static_cast<std::uint64_t>(shape[axis]);
    }
    return strides;
}

class HostStorage final : public RefCounted {
public:
    HostBuffer buffer;
};

class StringStorage final : public RefCounted {
public:
    std::vector<std::string_view> views;
    std::vector<char> payload;
};

template <std::size_t kSize>
void copy_row(const char* source, std::int64_t stride, std::int64_t count, char* destination) noexcept {
    for (std::int64_t i = 0; i < count; ++i) {
        std::memcpy(destination + static_cast<std::size_t>(i) * kSize, source + i * stride, kSize);
    }
}

void copy_strided(const TensorView& view, std::size_t axis, const char* source, char*& destination) noexcept {
    const std::size_t item = size_of(view.dtype());
    if (axis == view.shape().rank()) {
        std::memcpy(destination, source, item);
        destination += item;
        return;
    }
    const std::int64_t count = view.shape()[axis];
    const std::int64_t stride = view.strides_bytes()[axis];
    if (axis + 1 < view.shape().rank()) {
        for (std::int64_t i = 0; i < count; ++i) copy_strided(view, axis + 1, source + i * stride, destination);
        return;
    }
    const std::size_t row = static_cast<std::size_t>(count) * item;
    if (stride == static_cast<std::int64_t>(item)) {
        std::memcpy(destination, source, row);
    } else {
        switch (item) {
            case 1:
                copy_row<1>(source, stride, count, destination);
                break;
            case 2:
                copy_row<2>(source, stride, count, destination);
                break;
            case 4:
                copy_row<4>(source, stride, count, destination);
                break;
            case 8:
                copy_row<8>(source, stride, count, destination);
                break;
            default:
                copy_row<sizeof(std::string_view)>(source, stride, count, destination);
                break;
        }
    }
    destination += row;
}

}  // namespace

std::size_t checked_mul(std::size_t a, std::size_t b) {
    std::size_t product = 0;
    if (__builtin_mul_overflow(a, b, &product)) {
        throw InvalidArgument("a size overflows: " + std::to_string(a) + " x " + std::to_string(b));
    }
    return product;
}

Shape::Shape(std::span<const std::int64_t> dims) : rank_(dims.size()) {
    if (dims.size() > kMaxRank) {
        throw InvalidArgument("a tensor of rank " + std::to_string(dims.size()) + " was given; at most rank " +
                              std::to_string(kMaxRank) + " is supported: merge axes with reshape");
    }
    std::copy(dims.begin(), dims.end(), dims_.begin());
}

std::size_t Shape::elements() const {
    std::size_t product = 1;
    bool empty = false;
    for (std::int64_t extent : *this) {
        if (extent < 0) throw InvalidArgument("negative extent in shape " + to_string());
        if (extent == 0) {
            empty = true;
        } else {
            product = checked_mul(product, static_cast<std::size_t>(extent));
        }
    }
    return empty ? 0 : product;
}

std::string Shape::to_string() const {
    std::string text = "[";
    for (std::size_t i = 0; i < rank_; ++i) {
        if (i != 0) text += ", ";
        text += std::to_string(dims_[i]);
    }
    return text + "]";
}

TensorView::TensorView(void* data, DType dtype, const Shape& shape, Device device)
    : data_(data), elements_(shape.elements()), shape_(shape), device_(device), dtype_(dtype) {
    const std::size_t size = checked_mul(elements_, size_of(dtype));
    if (size > static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max())) {
        throw InvalidArgument("a tensor of shape " + shape.to_string() + " is larger than the address space");
    }
    strides_bytes_ = dense_strides_bytes(dtype, shape);
}

TensorView::TensorView(void* data, DType dtype, const Shape& shape, const Shape& strides_bytes, Device device)
    : TensorView(data, dtype, shape, device) {
    if (strides_bytes.rank() != shape.rank()) {
        throw InvalidArgument("shape " + shape.to_string() + " and strides " + strides_bytes.to_string() +
                              " differ in rank");
    }
    if (elements_ > 0) {
        for (std::size_t axis = 0; axis < shape.rank(); ++axis) {
            if (shape[axis] != 1 && strides_bytes[axis] != strides_bytes_[axis]) contiguous_ = false;
        }
    }
    strides_bytes_ = strides_bytes;
}

void TensorView::copy_to(void* destination) const noexcept {
    if (elements_ == 0) return;
    if (contiguous_) {
        std::memcpy(destination, data_, size_bytes());
        return;
    }
    char* at = static_cast<char*>(destination);
    copy_strided(*this, 0, static_cast<const char*>(data_), at);
}

Fence::~Fence() = default;

Tensor Tensor::allocate(DType dtype, const Shape& shape) {
    const TensorView probe(nullptr, dtype, shape);
    auto storage = make_ref<HostStorage>();
    void* data = storage->buffer.reserve(probe.size_bytes());
    if (dtype == DType::bytes) {
        auto* views = static_cast<std::string_view*>(data);
        for (std::size_t i = 0; i < probe.elements(); ++i) ::new (views + i) std::string_view();
    }
    return Tensor(TensorView(data, dtype, shape), storage);
}

Tensor Tensor::copy_of(const TensorView& view) {
    if (!view.device().host_accessible()) {
        throw InvalidArgument("a tensor " + std::string(name_of(view.dtype())) + view.shape().to_string() +
                              " in memory of " + view.device().to_string() +
                              " was to be copied by the host, which can't read it: copy it with that device");
    }
    if (view.dtype() != DType::bytes) {
        Tensor copy = allocate(view.dtype(), view.shape());
        view.copy_to(copy.data());
        return copy;
    }
    const Tensor views = allocate(DType::bytes, view.shape());
    view.copy_to(views.data());
    return from_strings({views.data_as<std::string_view>(), views.elements()}, view.shape());
}

Tensor Tensor::from_strings(std::span<const std::string_view> values, const Shape& shape) {
    if (shape.elements() != values.size()) {
        throw InvalidArgument("shape " + shape.to_string() + " has " + std::to_string(shape.elements()) +
                              " elements, but " + std::to_string(values.size()) + " byte strings were given");
    }
    auto storage = make_ref<StringStorage>();
    try {
        std::size_t total = 0;
        for (std::string_view value : values) total += value.size();
        storage->payload.reserve(total);
        storage->views.reserve(values.size());
        for (std::string_view value : values) {
            const char* at = storage->payload.data() + storage->payload.size();
            storage->payload.insert(storage->payload.end(), value.begin(), value.end());
            storage->views.emplace_back(at, value.size());
        }
    } catch (const std::bad_alloc&) {
        throw OutOfMemory("cannot allocate host memory for " + std::to_string(values.size()) + " byte strings");
    }
    return Tensor(TensorView(storage->views.data(), DType::bytes, shape), storage);
}

void* HostBuffer::reserve(std::size_t size_bytes) {
    if (!block_ || size_bytes > capacity_bytes_) {
        block_.reset(allocate_aligned(size_bytes));
        capacity_bytes_ = size_bytes;
    }
    return block_.get();
}

void HostBuffer::Free::operator()(void* block) const noexcept {
    ::operator delete(block, std::align_val_t(kTensorAlignment));
}

}  // namespace trtlab::core
