#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "errors.hpp"
#include "garbage.hpp"
#include "trtlab/core/spec.hpp"
#include "trtlab/core/tensor.hpp"

namespace trtlab::bindings {

/// Python values on their way to become a model's inputs (or a Python function's outputs): collects what must be kept
/// alive. Needs the GIL.
class Conversion {
public:
    /// `direction` is "input" or "output"; `count` is how many values will come.
    Conversion(const core::ModelSpec& model, const char* direction, std::size_t count)
        : model_(model), direction_(direction), returned_(direction_ == std::string_view("output")), count_(count) {}

    /// In place for anything with a buffer or DLPack in host memory; scalars, lists and strings go through numpy.
    /// Throws InvalidArgument naming model and tensor. Does not check the shape.
    core::Tensor operator()(nanobind::handle value, const core::TensorSpec& spec);

private:
    bool from_buffer(nanobind::handle value, const core::TensorSpec& spec, core::Tensor& tensor);
    core::Tensor from_dlpack(nanobind::handle value, const core::TensorSpec& spec);
    core::Tensor from_strings(nanobind::handle value, const core::TensorSpec& spec);
    [[noreturn]] void refuse(const core::TensorSpec& spec, const std::string& problem) const;
    [[noreturn]] void refuse_device(nanobind::handle value, const core::TensorSpec& spec, int device) const;

    const core::ModelSpec& model_;
    const char* direction_;
    const bool returned_;
    std::size_t count_;
    core::Ref<BorrowedBuffers> buffers_;
};

/// Whether `tensor` sees memory that its caller lent, and that must not be written through it.
bool read_only(const core::Tensor& tensor) noexcept;

}  // namespace trtlab::bindings
