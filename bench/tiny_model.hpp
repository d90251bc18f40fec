#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace trtlab::bench {

inline constexpr std::size_t kTinyElements = 16;

/// y = relu(x), float32[1, 16], as OpenVINO's IR: so little work that what is measured is what is around it.
/// With more inputs, the same again for x1 and y1, x2 and y2, ...
inline std::string tiny_model(int inputs = 1) {
    const std::string port = R"( precision="FP32"><dim>1</dim><dim>16</dim></port>)";
    std::string layers;
    std::string edges;
    const auto layer = [&](int id, const char* type, const char* data, const std::string& ports) {
        layers += "<layer id=\"" + std::to_string(id) + "\" name=\"n" + std::to_string(id) + "\" type=\"" + type +
                  "\" version=\"opset1\">" + data + ports + "</layer>";
    };
    for (int i = 0; i < inputs; ++i) {
        const std::string name = i == 0 ? "x" : "x" + std::to_string(i);
        layer(3 * i, "Parameter", R"(<data shape="1,16" element_type="f32"/>)",
              "<output><port id=\"0\" names=\"" + name + "\"" + port + "</output>");
        layer(3 * i + 1, "ReLU", "",
              "<input><port id=\"0\"" + port + "</input><output><port id=\"1\" names=\"y" + name.substr(1) + "\"" +
                  port + "</output>");
        layer(3 * i + 2, "Result", "", "<input><port id=\"0\"" + port + "</input>");
        for (int step = 0; step < 2; ++step) {
            edges += "<edge from-layer=\"" + std::to_string(3 * i + step) + "\" from-port=\"" + std::to_string(step) +
                     "\" to-layer=\"" + std::to_string(3 * i + step + 1) + "\" to-port=\"0\"/>";
        }
    }
    return R"(<?xml version="1.0"?><net name="tiny" version="11"><layers>)" + layers + "</layers><edges>" + edges +
           "</edges></net>";
}

}  // namespace trtlab::bench
