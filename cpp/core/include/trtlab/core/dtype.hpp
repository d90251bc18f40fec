#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace trtlab::core {

/// Element type of a tensor. The names are numpy's, and for what numpy lacks those of its extension ml_dtypes.
enum class DType : std::uint8_t {
    boolean,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
    float8_e4m3fn,  ///< 4 bits of exponent, 3 of mantissa, no infinity: what TensorRT calls FP8
    float16,
    bfloat16,
    float32,
    float64,
    bytes,  ///< Byte strings of any length: each element is a `std::string_view` into memory of the tensor's owner.
};

inline constexpr std::size_t kDTypeCount = 15;

/// Bytes per element; `sizeof(std::string_view)` for `bytes`.
constexpr std::size_t size_of(DType dtype) noexcept {
    constexpr std::array<std::size_t, kDTypeCount> sizes{
        1, 1, 2, 4, 8, 1, 2, 4, 8, 1, 2, 2, 4, 8, sizeof(std::string_view)};
    return sizes[static_cast<std::size_t>(dtype)];
}

/// "bool", "int8", ... "float8_e4m3fn", "bfloat16", ... "bytes".
std::string_view name_of(DType dtype) noexcept;

/// The inverse of `name_of`. Throws InvalidArgument, listing the names known.
DType dtype_from_name(std::string_view name);

}  // namespace trtlab::core
