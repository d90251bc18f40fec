#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "compiled_model.hpp"
#include "trtlab/core/recycler.hpp"
#include "trtlab/core/tensor.hpp"

namespace trtlab::openvino {

/// The memory of one output. OpenVINO allocated it and makes it grow when a result is larger, and sees to its size where
/// that is not known before: memory of ours would have to be large enough beforehand.
/// Owns: the tensor; the views of byte strings. Keeps the library, and not the model, alive.
class OutputMemory final : public core::Recycled<OutputMemory> {
public:
    /// Throws OutOfMemory, EngineError.
    OutputMemory(std::shared_ptr<Library> library, std::shared_ptr<const core::ModelSpec> model, std::size_t index);

    ov_tensor_t* tensor() const noexcept { return tensor_.get(); }
    /// What OpenVINO has written. The result shares the memory, and gives it back when the last copy is gone.
    core::Tensor read();
    void recycle() noexcept {}
    /// The most that was ever written here: OpenVINO keeps a block that is larger than it must be.
    std::size_t held_bytes() const noexcept { return held_bytes_; }

private:
    const std::shared_ptr<Library> library_;
    const std::shared_ptr<const core::ModelSpec> model_;
    const core::TensorSpec& spec_;
    const bool fixed_shape_;
    core::Shape shape_;
    Handle<ov_tensor_t> tensor_;
    std::size_t held_bytes_ = 0;
    std::vector<std::string_view> strings_;
};

/// Copies of the inputs that OpenVINO can't read where they are.
class StagedInputs final : public core::Recycled<StagedInputs> {
public:
    explicit StagedInputs(std::size_t inputs) : buffers_(inputs), strings_(inputs) {}
    /// The copy, dense and in OpenVINO's layout. Throws OutOfMemory.
    void* copy(std::size_t index, const core::TensorView& input);
    void recycle() noexcept {}

private:
    std::vector<core::HostBuffer> buffers_;
    std::vector<std::vector<std::string>> strings_;
};

/// Whether OpenVINO can read `input` where it is.
bool readable_in_place(const core::TensorView& input) noexcept;

/// Throws InvalidArgument if an integer does not survive OpenVINO's conversion to int32. `input` is contiguous.
void check_range(const core::ModelSpec& model, const core::TensorSpec& spec, const core::TensorView& input,
                 const void* data);

/// Makes `request` read its input `index` at `data`. Throws EngineError.
void bind_input(const CompiledModel& model, ov_infer_request_t* request, std::size_t index,
                const core::TensorView& input, void* data);

}  // namespace trtlab::openvino
