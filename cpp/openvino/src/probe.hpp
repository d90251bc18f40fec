#pragma once

#include "api.hpp"

namespace trtlab::openvino {

/// Throws EngineError unless the library means by its element types what the headers of this build say: the numbers are
/// not part of its ABI's promises, and a shifted one would misread every tensor.
void probe_element_types(const Library::State& library);

/// Whether the data of a STRING tensor are std::string objects as this compiler lays them out. Such tensors can only be
/// read that way through the C API.
bool probe_strings(const Library::State& library);

}  // namespace trtlab::openvino
