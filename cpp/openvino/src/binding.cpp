#include "binding.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <span>

#include "trtlab/core/error.hpp"

namespace trtlab::openvino {
namespace {

Handle<ov_tensor_t> make_output(const Api& api, const std::string& model, const core::TensorSpec& spec,
                                core::Shape shape) {
    ov_tensor_t* tensor = nullptr;
    api.check(
        api.tensor_create(element_type(spec.dtype), {static_cast<std::int64_t>(shape.rank()), &shape[0]}, &tensor),
        ("model '" + model + "', output '" + spec.name + "': no memory for it").c_str());
    return {tensor, api.tensor_free};
}

core::Shape shape_of(const Api& api, const ov_tensor_t* tensor) {
    ov_shape_t shape{};
    api.check(api.tensor_get_shape(tensor, &shape), "the shape of an output");
    const std::unique_ptr<ov_shape_t, decltype(api.shape_free)> owner(&shape, api.shape_free);
    return core::Shape(std::span<const std::int64_t>(shape.dims, static_cast<std::size_t>(shape.rank)));
}

/// Empty where the extents are not known; a tensor without elements fits every output.
core::Shape first_shape(const core::TensorSpec& spec) {
    return spec.any_rank || spec.dynamic() ? core::Shape{0} : spec.static_shape();
}

template <class Integer>
void check_elements(const core::ModelSpec& model, const core::TensorSpec& spec, std::span<const Integer> elements) {
    constexpr Integer kLow = std::is_signed_v<Integer> ? std::numeric_limits<std::int32_t>::min() : 0;
    constexpr Integer kHigh = std::numeric_limits<std::int32_t>::max();
    Integer low = 0;
    Integer high = 0;
    // No early exit: the compiler makes vector instructions of it.
    for (const Integer element : elements) {
        low = std::min(low, element);
        high = std::max(high, element);
    }
    if (low >= kLow && high <= kHigh) return;
    throw core::InvalidArgument("model '" + model.name + "', input '" + spec.name + "': the value " +
                                std::to_string(high > kHigh ? high : low) +
                                " does not fit in int32, which OpenVINO computes " +
                                std::string(core::name_of(spec.dtype)) + " in; expected values from " +
                                std::to_string(kLow) + " to " + std::to_string(kHigh));
}

}  // namespace

OutputMemory::OutputMemory(std::shared_ptr<Library> library, std::shared_ptr<const core::ModelSpec> model,
                           std::size_t index)
    : library_(std::move(library)),
      model_(std::move(model)),
      spec_(model_->outputs[index]),
      fixed_shape_(!spec_.any_rank && !spec_.dynamic()),
      shape_(first_shape(spec_)),
      tensor_(make_output(library_->state().api, model_->name, spec_, shape_)) {}

core::Tensor OutputMemory::read() {
    const Api& api = library_->state().api;
    if (!fixed_shape_) shape_ = shape_of(api, tensor());
    void* data = nullptr;
    api.check(api.tensor_data(tensor(), &data), "the data of an output");
    if (spec_.dtype == core::DType::bytes) {
        const std::span<const std::string> values(static_cast<const std::string*>(data), shape_.elements());
        strings_.assign(values.begin(), values.end());
        data = strings_.data();
    }
    const core::TensorView view(data, spec_.dtype, shape_);
    held_bytes_ = std::max(held_bytes_, view.size_bytes());
    return core::Tensor(view, core::Ref<const core::RefCounted>(this));
}

void* StagedInputs::copy(std::size_t index, const core::TensorView& input) {
    void* dense = buffers_[index].reserve(input.size_bytes());
    input.copy_to(dense);
    if (input.dtype() != core::DType::bytes) return dense;
    const std::span<const std::string_view> values(static_cast<const std::string_view*>(dense), input.elements());
    strings_[index].assign(values.begin(), values.end());
    return strings_[index].data();
}

bool readable_in_place(const core::TensorView& input) noexcept {
    return input.contiguous() && input.dtype() != core::DType::bytes &&
           reinterpret_cast<std::uintptr_t>(input.data()) % size_of(input.dtype()) == 0;
}

void check_range(const core::ModelSpec& model, const core::TensorSpec& spec, const core::TensorView& input,
                 const void* data) {
    if (input.dtype() == core::DType::int64) {
        check_elements(model, spec, std::span(static_cast<const std::int64_t*>(data), input.elements()));
    } else if (input.dtype() == core::DType::uint64) {
        check_elements(model, spec, std::span(static_cast<const std::uint64_t*>(data), input.elements()));
    }
}

void bind_input(const CompiledModel& model, ov_infer_request_t* request, std::size_t index,
                const core::TensorView& input, void* data) {
    // OpenVINO wants an address even where there is nothing to read.
    alignas(core::kTensorAlignment) static std::array<std::byte, sizeof(std::string)> nothing;
    const Api& api = model.api();
    core::Shape shape = input.shape();
    ov_tensor_t* tensor = nullptr;
    ov_status_e status = api.tensor_create_from_host_ptr(element_type(input.dtype()),
                                                         {static_cast<std::int64_t>(shape.rank()), &shape[0]},
                                                         input.elements() != 0 ? data : nothing.data(), &tensor);
    if (status == ov_status_e::OK) {
        status = api.infer_request_set_input_tensor_by_index(request, index, tensor);
        api.tensor_free(tensor);  // the request has its own share of it
    }
    if (status != ov_status_e::OK) [[unlikely]] {
        api.throw_error(status, "model '" + model.spec->name + "', input '" + model.spec->inputs[index].name +
                                    "': OpenVINO refuses it");
    }
}

}  // namespace trtlab::openvino
