#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>

#include "api.hpp"
#include "model_format.hpp"
#include "trtlab/core/spec.hpp"

namespace trtlab::openvino {

/// OpenVINO's properties by name, values as text.
using Properties = std::map<std::string, std::string>;

/// A model compiled for a device, with what it says of itself.
struct CompiledModel {
    /// A request of its own state, if the model has any. Throws EngineError.
    Handle<ov_infer_request_t> make_request() const;
    std::string property(const std::string& key) const;

    std::shared_ptr<Library> library;
    Handle<ov_compiled_model_t> model{nullptr, nullptr};
    std::shared_ptr<const core::ModelSpec> spec;
    bool stateful = false;

    const Api& api() const noexcept { return library->state().api; }
};

/// A model yet to be read: a file, or bytes with IR's weights.
struct ModelSource {
    std::string path;
    std::span<const std::byte> bytes;
    std::span<const std::byte> weights;
};

/// Throws as `Runner::load`.
std::shared_ptr<const CompiledModel> compile(const std::shared_ptr<Library>& library, const ModelSource& source,
                                             const std::string& name, const std::string& device,
                                             const Properties& properties);

}  // namespace trtlab::openvino
