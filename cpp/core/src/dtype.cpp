#include "trtlab/core/dtype.hpp"

#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::core {
namespace {
constexpr std::array<std::string_view, kDTypeCount> kNames{"bool",    "int8",     "int16",   "int32",   "int64",
                                                           "uint8",   "uint16",   "uint32",  "uint64",  "float8_e4m3fn",
                                                           "float16", "bfloat16", "float32", "float64", "bytes"};
}

std::string_view name_of(DType dtype) noexcept { return kNames[static_cast<std::size_t>(dtype)]; }

DType dtype_from_name(std::string_view name) {
    for (std::size_t i = 0; i < kNames.size(); ++i) {
        if (kNames[i] == name) return static_cast<DType>(i);
    }
    std::string message = "unknown dtype '" + std::string(name) + "'; known are";
    for (std::string_view known : kNames) message.append(" ").append(known);
    throw InvalidArgument(message);
}

}  // namespace trtlab::core
