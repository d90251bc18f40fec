#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace trtlab::openvino {

/// What a serialized model says of itself, read without OpenVINO: it keeps neither the names of ONNX's inputs and
/// outputs where a tensor has several, nor does its C API tell whether a model has state.
struct ModelFormat {
    enum class Kind { onnx, ir };
    Kind kind = Kind::onnx;
    bool stateful = false;
    std::vector<std::string> inputs;   ///< ONNX: of the graph, in order, without initializers
    std::vector<std::string> outputs;  ///< ONNX: of the graph, in order
};

/// Throws InvalidArgument, beginning with `what`, if the bytes are neither OpenVINO's XML nor a whole ONNX file.
/// Looks at the outermost structure only: the time is that of a walk over the nodes and initializers.
ModelFormat read_format(std::span<const std::byte> bytes, std::string_view what);

/// A file's content, mapped for reading. Throws NotFound if there is no such file, InvalidArgument if it can't be read.
/// Whoever truncates the file meanwhile breaks the reader, as with OpenVINO's own mapping of weights.
class MappedFile {
public:
    MappedFile(const std::string& path, std::string_view what);
    ~MappedFile();
    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;
    std::span<const std::byte> bytes() const noexcept { return bytes_; }

private:
    std::span<const std::byte> bytes_;
};

}  // namespace trtlab::openvino
