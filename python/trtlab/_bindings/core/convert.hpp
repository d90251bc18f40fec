#pragma once

#include <cstdint>
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

    /// In place for anything with a buffer or DLPack in host memory, and for DLPack and `__cuda_array_interface__` in the
    /// memory of a GPU that the model reads, behind a fence; scalars, lists and strings go through numpy.
    /// Throws InvalidArgument naming model and tensor. Does not check the shape.
    core::Tensor operator()(nanobind::handle value, const core::TensorSpec& spec);

private:
    bool from_buffer(nanobind::handle value, const core::TensorSpec& spec, core::Tensor& tensor);
    core::Tensor from_dlpack(nanobind::handle value, const core::TensorSpec& spec);
    core::Tensor from_cuda_array(nanobind::handle value, nanobind::handle interface, const core::TensorSpec& spec);
    core::Tensor from_strings(nanobind::handle value, const core::TensorSpec& spec);
    [[noreturn]] void refuse(const core::TensorSpec& spec, const std::string& problem) const;
    [[noreturn]] void refuse_export(nanobind::handle value, const core::TensorSpec& spec,
                                    const std::string& problem) const;
    [[noreturn]] void refuse_device(nanobind::handle value, const core::TensorSpec& spec,
                                    const std::string& where) const;
    core::Device dlpack_device(nanobind::handle value, const core::TensorSpec& spec) const;
    core::Device readable(nanobind::handle value, const core::TensorSpec& spec, int type, int index) const;
    nanobind::object dlpack_capsule(nanobind::handle value, const core::TensorSpec& spec, std::uintptr_t stream) const;

    const core::ModelSpec& model_;
    const char* direction_;
    const bool returned_;
    std::size_t count_;
    core::Ref<BorrowedBuffers> buffers_;
};

/// DLPack's code of float8_e4m3fn, since its version 1.1; nanobind has no name for it.
inline constexpr std::uint8_t kDlpackFloat8E4M3FN = 10;

/// What numpy lacks, and has through its extension ml_dtypes: `trtlab._arrays` passes the bits.
constexpr bool in_ml_dtypes(core::DType dtype) noexcept {
    return dtype == core::DType::bfloat16 || dtype == core::DType::float8_e4m3fn;
}

/// Whether a GPU reads the memory as its own; pinned host memory is the host's.
constexpr bool on_gpu(core::Device device) noexcept {
    return device.type == core::DeviceType::cuda || device.type == core::DeviceType::cuda_managed;
}

/// "torch.Tensor"
std::string name_of_type(nanobind::handle value);

/// Whether `tensor` sees memory that is not its own, lent by a caller or a window's, and must not be written through it.
bool read_only(const core::Tensor& tensor) noexcept;

}  // namespace trtlab::bindings
