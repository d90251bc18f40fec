#include "model_format.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <system_error>
#include <unordered_set>

#include "trtlab/core/error.hpp"

namespace trtlab::openvino {
namespace {

using Bytes = std::span<const std::byte>;

/// The wire format of Protocol Buffers: a message is a run of (key, payload).
/// https://protobuf.dev/programming-guides/encoding
class Message {
public:
    Message(Bytes bytes, std::string_view what) : rest_(bytes), size_(bytes.size()), what_(what) {}

    /// False at the end.
    bool next() {
        if (rest_.empty()) return false;
        const std::uint64_t key = varint();
        field_ = key >> 3;
        payload_ = {};
        switch (key & 7) {
            case 0:
                varint();
                break;
            case 1:
                take(8);
                break;
            case 2:
                payload_ = take(varint());
                break;
            case 5:
                take(4);
                break;
            default:
                fail("wire type " + std::to_string(key & 7));
        }
        if (field_ == 0) fail("field 0");
        return true;
    }

    std::uint64_t field() const noexcept { return field_; }
    /// Of a string or a nested message; empty otherwise.
    Bytes payload() const noexcept { return payload_; }
    std::string text() const { return {reinterpret_cast<const char*>(payload_.data()), payload_.size()}; }

private:
    Bytes take(std::uint64_t size) {
        if (size > rest_.size()) {
            fail("it ends " + std::to_string(size - rest_.size()) + " bytes early (" + std::to_string(size_) +
                 " bytes are there)");
        }
        const Bytes taken = rest_.first(size);
        rest_ = rest_.subspan(size);
        return taken;
    }

    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 64; shift += 7) {
            const auto byte = static_cast<std::uint64_t>(take(1)[0]);
            value |= (byte & 0x7f) << shift;
            if (byte < 0x80) return value;
        }
        fail("a number of more than 64 bits");
    }

    [[noreturn]] void fail(const std::string& why) const {
        throw core::InvalidArgument(std::string(what_) + ": neither an ONNX model nor OpenVINO's XML: read as ONNX, " +
                                    why + "; check that it was copied whole and is a model of one of these formats");
    }

    Bytes rest_;
    std::size_t size_;
    std::string_view what_;
    std::uint64_t field_ = 0;
    Bytes payload_;
};

/// The text of `field` in a message; the last one counts, as in Protocol Buffers.
std::string text_of(Bytes bytes, std::uint64_t field, std::string_view what) {
    std::string text;
    for (Message message(bytes, what); message.next();) {
        if (message.field() == field) text = message.text();
    }
    return text;
}

// Field numbers of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
constexpr std::uint64_t kModelGraph = 7;
constexpr std::uint64_t kGraphInitializer = 5, kGraphInput = 11, kGraphOutput = 12;
constexpr std::uint64_t kTensorName = 8, kValueName = 1;

void read_graph(Bytes bytes, std::string_view what, ModelFormat& format) {
    std::unordered_set<std::string> initializers;
    for (Message graph(bytes, what); graph.next();) {
        if (graph.field() == kGraphInitializer) initializers.insert(text_of(graph.payload(), kTensorName, what));
        if (graph.field() == kGraphInput) format.inputs.push_back(text_of(graph.payload(), kValueName, what));
        if (graph.field() == kGraphOutput) format.outputs.push_back(text_of(graph.payload(), kValueName, what));
    }
    // Before version 4 of the format every initializer had to be listed as an input too.
    std::erase_if(format.inputs, [&](const std::string& name) { return initializers.contains(name); });
}

bool looks_like_xml(std::string_view text) {
    if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
    const std::size_t first = text.find_first_not_of(" \t\r\n");
    return first != std::string_view::npos && text[first] == '<';
}

/// The root element's tag with its attributes, past declaration, comments and document type; empty if there is none.
std::string_view root_of(std::string_view xml) {
    for (;;) {
        const std::size_t open = xml.find('<');
        if (open == std::string_view::npos) return {};
        xml.remove_prefix(open);
        if (!xml.starts_with("<?") && !xml.starts_with("<!")) return xml.substr(0, xml.find('>'));
        const std::string_view end = xml.starts_with("<!--") ? "-->" : ">";
        const std::size_t close = xml.find(end);
        if (close == std::string_view::npos) return {};
        xml.remove_prefix(close + end.size());
    }
}

}  // namespace

ModelFormat read_format(Bytes bytes, std::string_view what) {
    if (bytes.empty())
        throw core::InvalidArgument(std::string(what) + ": it is empty; expected an ONNX model or OpenVINO's XML");
    ModelFormat format;
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    if (looks_like_xml(text)) {
        // Anything else in XML would be offered to one of OpenVINO's other readers after the other.
        const std::string_view root = root_of(text);
        if (!root.starts_with("<net ") || root.find(" version=") == std::string_view::npos) {
            throw core::InvalidArgument(
                std::string(what) + ": XML, but no OpenVINO IR: expected its root to be <net name=... version=...>");
        }
        format.kind = ModelFormat::Kind::ir;
        // The operation that reads a variable; where the word stands for something else, only a little time is lost.
        format.stateful = text.find("ReadValue") != std::string_view::npos;
        return format;
    }
    bool has_graph = false;
    for (Message model(bytes, what); model.next();) {
        if (model.field() != kModelGraph) continue;
        has_graph = true;
        read_graph(model.payload(), what, format);
    }
    if (!has_graph)
        throw core::InvalidArgument(std::string(what) + ": neither an ONNX model (it has no graph) nor OpenVINO's XML");
    return format;
}

MappedFile::MappedFile(const std::string& path, std::string_view what) {
    const auto fail = [&](int error) {
        const std::string message =
            std::string(what) + ": file '" + path + "': " + std::system_category().message(error);
        if (error == ENOENT || error == ENOTDIR) throw core::NotFound(message);
        throw core::InvalidArgument(message);
    };
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (file < 0) fail(errno);
    struct stat status{};
    int error = ::fstat(file, &status) != 0 ? errno : S_ISDIR(status.st_mode) ? EISDIR : 0;
    if (error == 0 && !S_ISREG(status.st_mode)) error = EINVAL;
    if (error == 0 && status.st_size > 0) {
        const auto size = static_cast<std::size_t>(status.st_size);
        void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
        if (address == MAP_FAILED) {
            error = errno;
        } else {
            bytes_ = {static_cast<const std::byte*>(address), size};
        }
    }
    ::close(file);
    if (error != 0) fail(error);
}

MappedFile::~MappedFile() {
    if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace trtlab::openvino
