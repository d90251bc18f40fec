#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "trtlab/core/function_model.hpp"

namespace trtlab::core::testing {

/// x: float32[?] -> y: float32[?]
inline ModelSpec one_in_one_out(const std::string& name) {
    return {.name = name,
            .inputs = {{.name = "x", .dtype = DType::float32, .shape = {{}}}},
            .outputs = {{.name = "y", .dtype = DType::float32, .shape = {{}}}}};
}

inline std::vector<Tensor> echo(std::span<const Tensor> inputs) { return {Tensor::copy_of(inputs[0])}; }

inline Tensor tensor_of(const std::vector<float>& values) {
    const Tensor tensor = Tensor::allocate(DType::float32, {static_cast<std::int64_t>(values.size())});
    if (!values.empty()) std::memcpy(tensor.data(), values.data(), tensor.size_bytes());
    return tensor;
}

inline float first_of(const Tensor& tensor) { return tensor.data_as<float>()[0]; }

}  // namespace trtlab::core::testing
