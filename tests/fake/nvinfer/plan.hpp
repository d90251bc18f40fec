#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace fake_nvinfer {

using Extents = std::vector<std::int64_t>;

struct PlanTensor {
    std::string name;
    bool input = false;
    int type = 0;  ///< TensorRT's number
    Extents shape;
    bool on_host = false;
    bool vectorized = false;
    std::string operation;
    std::vector<std::string> operands;
    std::vector<std::array<Extents, 3>> profiles;
    std::vector<std::array<Extents, 3>> values;
};

struct Plan {
    std::string name;
    int requires_version = 0;
    std::vector<std::string> layers;
    std::vector<PlanTensor> tensors;
    std::vector<std::size_t> weights;
    std::size_t activation = 0;
    int aux_streams = 0;
    std::int64_t streamable = 0;
    bool refittable = false;
    std::string text;

    int profiles() const;
    const PlanTensor* find(std::string_view tensor) const;
};

/// Throws std::runtime_error with what TensorRT would say.
Plan parse(std::string_view text);

/// Bytes of an element; 0 for TensorRT's types of less than a byte.
std::size_t size_of_type(int type);
std::size_t elements_of(const Extents& shape);

}  // namespace fake_nvinfer
