#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "trtlab/core/tensor.hpp"
#include "trtlab/openvino/library.hpp"
#include "trtlab/openvino/runner.hpp"

namespace trtlab::openvino::test {

/// Where PyPI's package keeps OpenVINO's libraries, beside the headers that the layer was compiled with.
inline std::string library_folder() { return TRTLAB_OPENVINO_LIBRARY_DIR; }

/// The library under test: $TRTLAB_OPENVINO_LIBRARY, or that of the package. Opened once: it is slow.
inline const std::shared_ptr<Library>& library() {
    static const std::shared_ptr<Library> opened = [] {
        Library::Options options;
        if (std::getenv("TRTLAB_OPENVINO_LIBRARY") == nullptr) options.directories = {library_folder()};
        return Library::open(options);
    }();
    return opened;
}

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// Writes OpenVINO's IR, version 11: a graph of layers, each with one output. -1 is a dynamic extent.
class Ir {
public:
    using Dims = std::vector<std::int64_t>;

    int parameter(const std::string& name, const std::string& type, const Dims& dims) {
        return add("Parameter", "opset1", "<data shape=\"" + list(dims) + "\" element_type=\"" + type + "\"/>", {},
                   name, dims);
    }
    int constant(const std::string& type, const Dims& dims, std::size_t offset, std::size_t size) {
        return add("Const", "opset1",
                   "<data element_type=\"" + type + "\" shape=\"" + list(dims) + "\" offset=\"" +
                       std::to_string(offset) + "\" size=\"" + std::to_string(size) + "\"/>",
                   {}, "", dims);
    }
    int op(const std::string& type, const std::vector<int>& inputs, const std::string& name, const Dims& dims,
           const std::string& data = "", const std::string& opset = "opset1") {
        return add(type, opset, data, inputs, name, dims);
    }
    int binary(const std::string& type, int a, int b, const std::string& name, const Dims& dims) {
        return op(type, {a, b}, name, dims, "<data auto_broadcast=\"numpy\"/>");
    }
    void result(int of) { add("Result", "opset1", "", {of}, "", {}, false); }

    std::string xml() const {
        return "<?xml version=\"1.0\"?><net name=\"test\" version=\"11\"><layers>" + layers_ + "</layers><edges>" +
               edges_ + "</edges></net>";
    }

private:
    static std::string list(const Dims& dims) {
        std::string text;
        for (const std::int64_t dim : dims) {
            text += (text.empty() ? "" : ",") + (dim < 0 ? std::string("?") : std::to_string(dim));
        }
        return text;
    }
    static std::string port(std::size_t id, const Dims& dims, const std::string& name) {
        // The reader wants a precision and goes by that of the parameters.
        std::string text = "<port id=\"" + std::to_string(id) + "\" precision=\"FP32\"" +
                           (name.empty() ? "" : " names=\"" + name + "\"") + ">";
        for (const std::int64_t dim : dims) text += "<dim>" + std::to_string(dim) + "</dim>";
        return text + "</port>";
    }
    int add(const std::string& type, const std::string& opset, const std::string& data, const std::vector<int>& inputs,
            const std::string& name, const Dims& dims, bool has_output = true) {
        const int id = static_cast<int>(outputs_.size());
        layers_ += "<layer id=\"" + std::to_string(id) + "\" name=\"layer" + std::to_string(id) + "\" type=\"" + type +
                   "\" version=\"" + opset + "\">" + data;
        if (!inputs.empty()) layers_ += "<input>";
        for (std::size_t i = 0; i < inputs.size(); ++i) {
            const auto from = static_cast<std::size_t>(inputs[i]);
            layers_ += port(i, outputs_[from].dims, "");
            edges_ += "<edge from-layer=\"" + std::to_string(inputs[i]) + "\" from-port=\"" +
                      std::to_string(outputs_[from].port) + "\" to-layer=\"" + std::to_string(id) + "\" to-port=\"" +
                      std::to_string(i) + "\"/>";
        }
        if (!inputs.empty()) layers_ += "</input>";
        if (has_output) layers_ += "<output>" + port(inputs.size(), dims, name) + "</output>";
        layers_ += "</layer>";
        outputs_.push_back({inputs.size(), dims});
        return id;
    }

    struct Output {
        std::size_t port;
        Dims dims;
    };
    std::string layers_;
    std::string edges_;
    std::vector<Output> outputs_;
};

/// y = relu(x)
inline std::string relu(const Ir::Dims& dims) {
    Ir ir;
    ir.result(ir.op("ReLU", {ir.parameter("x", "f32", dims)}, "y", dims));
    return ir.xml();
}

/// y = x
inline std::string identity(const std::string& type, const Ir::Dims& dims) {
    Ir ir;
    ir.result(ir.parameter("x", type, dims));
    return ir.xml();
}

/// y = a + b; the extents are not checked before it runs if they are dynamic
inline std::string add(const Ir::Dims& dims, const std::string& type = "f32") {
    Ir ir;
    const int a = ir.parameter("a", type, dims);
    const int b = ir.parameter("b", type, dims);
    ir.result(ir.binary("Add", a, b, "y", dims));
    return ir.xml();
}

/// y = x multiplied with itself `times` times: takes as long as wanted.
inline std::string long_chain(int times) {
    Ir ir;
    const Ir::Dims dims{-1, -1};
    const int x = ir.parameter("x", "f32", dims);
    int y = x;
    for (int i = 0; i < times; ++i) {
        y = ir.op("MatMul", {y, x}, i + 1 == times ? "y" : "", dims,
                  "<data transpose_a=\"false\" transpose_b=\"false\"/>");
    }
    ir.result(y);
    return ir.xml();
}

/// Writes ONNX: a run of (field, payload) in the wire format of Protocol Buffers.
class Proto {
public:
    Proto& number(std::uint64_t field, std::uint64_t value) {
        varint(field << 3);
        varint(value);
        return *this;
    }
    Proto& text(std::uint64_t field, std::string_view value) {
        varint(field << 3 | 2);
        varint(value.size());
        bytes_ += value;
        return *this;
    }
    Proto& nested(std::uint64_t field, const Proto& message) { return text(field, message.bytes_); }
    const std::string& bytes() const { return bytes_; }

private:
    void varint(std::uint64_t value) {
        for (; value >= 0x80; value >>= 7) bytes_ += static_cast<char>(value | 0x80);
        bytes_ += static_cast<char>(value);
    }
    std::string bytes_;
};

/// A float32 input or output of ONNX; -1 is a dynamic extent.
inline Proto onnx_value(std::string_view name, const std::vector<std::int64_t>& dims) {
    Proto shape;
    for (const std::int64_t dim : dims) {
        Proto one;
        if (dim < 0) {
            one.text(2, "n");
        } else {
            one.number(1, static_cast<std::uint64_t>(dim));
        }
        shape.nested(1, one);
    }
    return Proto().text(1, name).nested(2, Proto().nested(1, Proto().number(1, 1).nested(2, shape)));
}

inline Proto onnx_node(std::string_view op, const std::vector<std::string>& inputs,
                       const std::vector<std::string>& outputs) {
    Proto node;
    for (const std::string& name : inputs) node.text(1, name);
    for (const std::string& name : outputs) node.text(2, name);
    return node.text(4, op);
}

inline std::string onnx_model(const Proto& graph) {
    return Proto().number(1, 8).nested(7, graph).nested(8, Proto().text(1, "").number(2, 13)).bytes();
}

inline Runner::Options named(const std::string& name) {
    Runner::Options options;
    options.name = name;
    return options;
}

inline std::shared_ptr<Runner> load(const std::string& model, const Runner::Options& options = named("m"),
                                    std::string_view weights = {}) {
    return Runner::load_from_memory(library(), bytes_of(model), options, bytes_of(weights));
}

/// A dense tensor with a copy of `values`.
template <class T>
core::Tensor tensor(core::DType dtype, const core::Shape& shape, const std::vector<T>& values) {
    std::vector<T> copy = values;
    return core::Tensor::copy_of(core::TensorView(copy.data(), dtype, shape));
}

inline core::Tensor floats(const core::Shape& shape, const std::vector<float>& values) {
    return tensor<float>(core::DType::float32, shape, values);
}

template <class T = float>
std::vector<T> values_of(const core::TensorView& view) {
    return {view.data_as<const T>(), view.data_as<const T>() + view.elements()};
}

inline core::Tensors answer(core::Model& model, const std::vector<core::Tensor>& inputs) {
    return model.infer(std::span<const core::Tensor>(inputs)).get();
}

/// The message of the E that `f` throws; fails with what else it does.
template <class E, class F>
std::string message_of(F&& f) {
    try {
        f();
    } catch (const E& error) {
        return error.what();
    } catch (const std::exception& other) {
        return std::string("ANOTHER TYPE: ") + other.what();
    }
    return "NOTHING THROWN";
}

}  // namespace trtlab::openvino::test
