// consumer <libopenvino_c> <model.onnx>: one request to a model on the CPU, with zeros for what it asks for.
#include <iostream>
#include <trtlab/core/inference_manager.hpp>
#include <trtlab/openvino/runner.hpp>

int main(int argc, char** argv) try {
    namespace core = trtlab::core;
    namespace openvino = trtlab::openvino;
    if (argc != 3) throw core::InvalidArgument("usage: consumer <libopenvino_c> <model.onnx>");

    core::InferenceManager manager({.max_executions = 2});
    const auto library = openvino::Library::open({.path = argv[1]});
    const auto model = manager.load("model", [&](const std::string& name, core::InferenceManager& within) {
        return openvino::Runner::load(library, argv[2], {.name = name, .budget = within.budget()});
    });
    std::vector<core::Tensor> inputs;
    for (const core::TensorSpec& input : model->spec().inputs) {
        core::Shape shape{1, 3, 48, 192};
        inputs.push_back(core::Tensor::allocate(input.dtype, shape));
        std::fill_n(inputs.back().data_as<float>(), shape.elements(), 0.0F);
    }
    const core::Future<core::Tensors> answer = model->infer(inputs);
    for (const core::Tensor& output : answer.get()) std::cout << output.shape().to_string() << '\n';
} catch (const trtlab::core::Error& error) {
    std::cerr << error.what() << '\n';
    return 1;
}
