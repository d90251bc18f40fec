#include "api.hpp"

#include <array>
#include <string>

#include "trtlab/core/error.hpp"

namespace trtlab::openvino {
namespace {

constexpr std::array<ov_element_type_e, core::kDTypeCount> kElementTypes{
    ov_element_type_e::BOOLEAN, ov_element_type_e::I8,     ov_element_type_e::I16,   ov_element_type_e::I32,
    ov_element_type_e::I64,     ov_element_type_e::U8,     ov_element_type_e::U16,   ov_element_type_e::U32,
    ov_element_type_e::U64,     ov_element_type_e::F8E4M3, ov_element_type_e::F16,   ov_element_type_e::BF16,
    ov_element_type_e::F32,     ov_element_type_e::F64,    ov_element_type_e::STRING};

/// OpenVINO's message on one line, without the positions in its own sources.
std::string condensed(std::string_view message) {
    std::string result;
    while (!message.empty()) {
        const std::size_t end = message.find('\n');
        std::string_view line = message.substr(0, end);
        message.remove_prefix(end == std::string_view::npos ? message.size() : end + 1);
        while (!line.empty() && (line.back() == ' ' || line.back() == '\r')) line.remove_suffix(1);
        if (line.empty() || line.starts_with("Exception from src/")) continue;
        if (const std::size_t at = line.find(" failed at src/"); at != std::string_view::npos) {
            line = line.substr(0, at + std::string_view(" failed").size());
        }
        if (!result.empty()) result += "; ";
        result += line;
    }
    return result;
}

}  // namespace

void Api::throw_error(ov_status_e status, std::string_view what) const {
    const Handle<const char> last(get_last_err_msg(), free);
    std::string words = last ? condensed(last.get()) : std::string();
    if (words.empty()) words = get_error_info(status);
    const std::string message = std::string(what) + ": " + words;
    if (words.find("bad_alloc") != std::string::npos) throw core::OutOfMemory(message);
    throw core::EngineError(message);
}

ov_element_type_e element_type(core::DType dtype) noexcept { return kElementTypes[static_cast<std::size_t>(dtype)]; }

bool dtype_of(ov_element_type_e type, core::DType& dtype) noexcept {
    for (std::size_t i = 0; i < kElementTypes.size(); ++i) {
        if (kElementTypes[i] != type) continue;
        dtype = static_cast<core::DType>(i);
        return true;
    }
    return false;
}

}  // namespace trtlab::openvino
