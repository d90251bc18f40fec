#pragma once

#include <string>

#include "module.hpp"
#include "trtlab/core/inference_manager.hpp"

namespace trtlab::bindings {

/// Python's InferenceManager. Keeps the models' Python objects too, so that looking one up gives the same object.
class ManagerHandle {
public:
    explicit ManagerHandle(std::shared_ptr<core::InferenceManager> manager) : handle_(std::move(manager)) {}

    core::InferenceManager& manager() const { return *(*handle_); }
    /// Runs `loader` without the GIL and returns the Model.
    nanobind::object load(const std::string& name, const core::InferenceManager::Loader& loader);
    nanobind::object register_model(const std::string& name, nanobind::object model);
    nanobind::object model(const std::string& name) const;
    void unload(const std::string& name, bool cancel_pending);
    void close(bool cancel_pending);
    nanobind::dict stats() const;
    /// Runs without the GIL and returns MemoryUses.
    nanobind::list memory_report() const;

private:
    void remember(const std::string& name, const std::shared_ptr<core::Model>& model, const nanobind::object& handle);

    Handle<core::InferenceManager> handle_;
    nanobind::dict models_;
};

}  // namespace trtlab::bindings
