#include "trtlab/core/model.hpp"

#include <vector>

#include "trtlab/core/error.hpp"

namespace trtlab::core {

Model::~Model() = default;

Future<Tensors> Model::infer(std::initializer_list<std::pair<std::string_view, Tensor>> inputs,
                             const std::optional<WaitOptions>& queue_wait) {
    const ModelSpec& model = spec();
    std::vector<Tensor> ordered(model.inputs.size());
    std::vector<bool> given(model.inputs.size());
    for (const auto& [name, tensor] : inputs) {
        const std::size_t index = model.input_index(name);
        if (given[index])
            throw InvalidArgument("model '" + model.name + "', input '" + std::string(name) + "' was given twice");
        given[index] = true;
        ordered[index] = tensor;
    }
    for (std::size_t i = 0; i < given.size(); ++i) {
        if (!given[i]) {
            throw InvalidArgument("model '" + model.name + "', input '" + model.inputs[i].name +
                                  "' is missing: expected " + model.inputs[i].to_string());
        }
    }
    return infer(std::span<const Tensor>(ordered), queue_wait);
}

namespace {
[[noreturn]] void throw_immovable(const std::string& name) {
    throw InvalidArgument("model '" + name +
                          "': its weights stay where they are; load it with its weights in managed memory");
}
}  // namespace

void Model::prefetch() { throw_immovable(spec().name); }
void Model::evict() { throw_immovable(spec().name); }

void check_inputs(const ModelSpec& spec, std::span<const Tensor> inputs) {
    if (inputs.size() != spec.inputs.size()) [[unlikely]] {
        std::string message = "model '" + spec.name + "' takes " + std::to_string(spec.inputs.size()) +
                              " inputs, got " + std::to_string(inputs.size()) + "; expected";
        for (const TensorSpec& input : spec.inputs) message += " '" + input.name + "' " + input.to_string();
        throw InvalidArgument(message);
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) check_tensor(spec, spec.inputs[i], inputs[i], "input");
}

}  // namespace trtlab::core
