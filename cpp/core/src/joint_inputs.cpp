#include "joint_inputs.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {

template <class T>
bool put(double value, Element& element) noexcept {
    if constexpr (std::is_integral_v<T>) {
        // The largest of a 64-bit type is no double, the power of two above it is.
        const double end = std::ldexp(1.0, std::numeric_limits<T>::digits);
        if (value != std::floor(value) || value >= end || value < (std::is_signed_v<T> ? -end : 0)) return false;
    }
    if constexpr (std::is_same_v<T, float>) {
        if (std::isfinite(value) && std::abs(value) > std::numeric_limits<float>::max()) return false;
    }
    const T converted = static_cast<T>(value);
    std::memcpy(element.data(), &converted, sizeof converted);
    return true;
}

/// False if the type has no such value.
bool put(double value, DType dtype, Element& element) noexcept {
    switch (dtype) {
        case DType::boolean:
            return (value == 0 || value == 1) && put<std::uint8_t>(value, element);
        case DType::int8:
            return put<std::int8_t>(value, element);
        case DType::int16:
            return put<std::int16_t>(value, element);
        case DType::int32:
            return put<std::int32_t>(value, element);
        case DType::int64:
            return put<std::int64_t>(value, element);
        case DType::uint8:
            return put<std::uint8_t>(value, element);
        case DType::uint16:
            return put<std::uint16_t>(value, element);
        case DType::uint32:
            return put<std::uint32_t>(value, element);
        case DType::uint64:
            return put<std::uint64_t>(value, element);
        case DType::float32:
            return put<float>(value, element);
        case DType::float64:
            return put<double>(value, element);
        case DType::float8_e4m3fn:
        case DType::float16:
        case DType::bfloat16:
        case DType::bytes:
            return value == 0;  // no bit set: 0, or the empty string
    }
    return false;
}

/// An axis that may be padded, or trimmed.
void check_axis(const std::string& who, const TensorSpec& spec, std::size_t axis) {
    if (axis == 0) throw InvalidArgument(who + ": axis 0 is the batch, padded are the others");
    if (!spec.any_rank && axis >= spec.shape.size())
        throw InvalidArgument(who + ": there is no axis " + std::to_string(axis) + " in " + spec.to_string());
}

void fill(char* at, std::size_t count, std::size_t size, const Element& element) noexcept {
    if (std::all_of(element.begin(), element.end(), [](std::byte byte) { return byte == std::byte{0}; })) {
        std::memset(at, 0, count * size);
        return;
    }
    for (std::size_t i = 0; i < count; ++i) std::memcpy(at + i * size, element.data(), size);
}

/// Copies `view` from `axis` on into a dense tensor of `shape`, whose extents are no smaller.
void copy_into(const TensorView& view, std::size_t axis, const char* from, const Shape& shape, char* to) {
    const Shape& own = view.shape();
    std::size_t block_bytes = size_of(view.dtype());  // of one step along `axis`
    bool padded = false;
    for (std::size_t i = axis + 1; i < own.rank(); ++i) {
        block_bytes *= static_cast<std::size_t>(shape[i]);
        padded = padded || own[i] != shape[i];
    }
    if (!padded) {
        const std::span<const std::int64_t> extents(own.begin() + axis, own.end());
        const std::span<const std::int64_t> strides(view.strides_bytes().begin() + axis, view.strides_bytes().end());
        TensorView(const_cast<char*>(from), view.dtype(), Shape(extents), Shape(strides)).copy_to(to);
        return;
    }
    for (std::int64_t i = 0; i < own[axis]; ++i) {
        copy_into(view, axis + 1, from + i * view.strides_bytes()[axis], shape,
                  to + static_cast<std::size_t>(i) * block_bytes);
    }
}

}  // namespace

Padding::Padding(const ModelSpec& spec, const std::vector<PaddedAxis>& padded) : fillings_(spec.inputs.size()) {
    for (const PaddedAxis& one : padded) {
        Axis axis{.input = spec.input_index(one.input), .axis = one.axis, .buckets = one.buckets, .trimmed = {}};
        const TensorSpec& input = spec.inputs[axis.input];
        const std::string who = "model '" + spec.name + "', padding of input '" + one.input + "'";
        check_axis(who, input, one.axis);
        for (const Axis& other : axes_) {
            if (other.input == axis.input && other.axis == axis.axis)
                throw InvalidArgument(who + ": axis " + std::to_string(one.axis) + " is given twice");
        }
        if (one.buckets.empty())
            throw InvalidArgument(who + ": there are no buckets; expected extents, such as 64, 128");
        for (std::size_t i = 0; i < one.buckets.size(); ++i) {
            const std::int64_t bucket = one.buckets[i];
            if (bucket < 1 || (i > 0 && bucket <= one.buckets[i - 1]))
                throw InvalidArgument(who + ": bucket " + std::to_string(bucket) + " is not positive and ascending");
            if (!input.any_rank && !input.shape[one.axis].accepts(bucket)) {
                throw InvalidArgument(who + ": axis " + std::to_string(one.axis) + " accepts " +
                                      input.shape[one.axis].to_string() + ", not " + std::to_string(bucket));
            }
        }
        Element filling{};
        if (!put(one.value, input.dtype, filling)) {
            throw InvalidArgument(who + ": " + std::to_string(one.value) + " can't be a " +
                                  std::string(name_of(input.dtype)) + "; 0 always can");
        }
        const bool another =
            std::any_of(axes_.begin(), axes_.end(), [&](const Axis& a) { return a.input == axis.input; });
        if (another && fillings_[axis.input] != filling)
            throw InvalidArgument(who + ": its axes are filled with different values, expected one");
        fillings_[axis.input] = filling;
        for (const auto& [name, output_axis] : one.trimmed) {
            const std::size_t index = spec.output_index(name);
            check_axis("model '" + spec.name + "', trimming of output '" + name + "'", spec.outputs[index],
                       output_axis);
            axis.trimmed.emplace_back(index, output_axis);
        }
        axes_.push_back(std::move(axis));
    }
}

Shape Padding::common(std::size_t input, const Shape& shape) const {
    Shape filled = shape;
    filled[0] = 0;
    for (const Axis& axis : axes_) {
        if (axis.input != input || axis.axis >= shape.rank()) continue;
        const auto bucket = std::lower_bound(axis.buckets.begin(), axis.buckets.end(), shape[axis.axis]);
        if (bucket != axis.buckets.end()) filled[axis.axis] = *bucket;
    }
    return filled;
}

Tensor Padding::part(const Tensor& output, std::size_t index, std::size_t first_row, std::size_t rows,
                     std::span<const Tensor> inputs) const {
    Shape shape = output.shape();
    shape[0] = static_cast<std::int64_t>(rows);
    for (const Axis& axis : axes_) {
        for (const auto& [trimmed, output_axis] : axis.trimmed) {
            const Shape& given = inputs[axis.input].shape();
            if (trimmed != index || output_axis >= shape.rank() || axis.axis >= given.rank()) continue;
            shape[output_axis] = std::min(shape[output_axis], given[axis.axis]);
        }
    }
    const Shape& strides = output.strides_bytes();
    char* const data = output.data_as<char>() + static_cast<std::int64_t>(first_row) * strides[0];
    return Tensor(TensorView(data, output.dtype(), shape, strides, output.device()), output.owner());
}

void JointInputs::begin(DType dtype, const Shape& common, std::size_t rows) {
    const std::size_t index = tensors_.size();
    if (buffers_.size() == index) buffers_.emplace_back();
    HostBuffer& buffer = buffers_[index];
    Shape shape = common;
    shape[0] = static_cast<std::int64_t>(rows);
    const std::size_t size_bytes = TensorView(nullptr, dtype, shape).size_bytes();
    const std::size_t before = buffer.capacity_bytes();
    void* const data = buffer.reserve(size_bytes);
    total_->fetch_add(buffer.capacity_bytes() - before, std::memory_order_relaxed);  // a statistic
    tensors_.push_back(Tensor(TensorView(data, dtype, shape), Ref<const RefCounted>(this)));
    end_ = static_cast<char*>(data);
}

void JointInputs::append(const Tensor& part, const Element& filling) {
    if (part.dtype() == DType::bytes) strings_.push_back(part.owner());
    const TensorView& whole = tensors_.back();
    Shape shape = whole.shape();
    shape[0] = part.shape()[0];
    const TensorView place(end_, whole.dtype(), shape);
    if (part.shape() == shape) {
        part.copy_to(end_);
    } else {
        fill(end_, place.elements(), size_of(part.dtype()), filling);
        if (part.elements() > 0) copy_into(part, 0, part.data_as<char>(), shape, end_);
    }
    end_ += place.size_bytes();
}

std::size_t JointInputs::held_bytes() const noexcept {
    std::size_t sum = 0;
    for (const HostBuffer& buffer : buffers_) sum += buffer.capacity_bytes();
    return sum;
}

}  // namespace trtlab::core
