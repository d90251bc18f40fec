#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "manager.hpp"
#include "reports.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {
nb::str key(const std::string& name) { return nb::str(name.data(), name.size()); }
}  // namespace

nb::object ManagerHandle::load(const std::string& name, const core::InferenceManager::Loader& loader) {
    core::InferenceManager& manager = *(*handle_);
    std::shared_ptr<core::Model> model;
    {
        const ReleasedGil unlocked;
        model = manager.load(name, loader);
    }
    nb::object handle = nb::cast(ModelHandle(model));
    remember(name, model, handle);
    return handle;
}

void ManagerHandle::remember(const std::string& name, const std::shared_ptr<core::Model>& model,
                             const nb::object& handle) {
    // While the GIL was away the model may have been unloaded again, or the manager closed.
    try {
        if (handle_->model(name) == model) models_[key(name)] = handle;
    } catch (const core::NotFound&) {
    } catch (const core::Closed&) {
    }
}

nb::object ManagerHandle::register_model(const std::string& name, nb::object model) {
    if (!nb::isinstance<ModelHandle>(model)) {
        throw core::InvalidArgument("model '" + name + "': expected a trtlab.Model, got a " +
                                    nb::cast<std::string>(nb::str(nb::type_name(model.type()))) +
                                    "; make a function one with trtlab.FunctionModel");
    }
    const std::shared_ptr<core::Model> shared = instance<ModelHandle>(model).shared();
    {
        core::InferenceManager& manager = *(*handle_);
        const ReleasedGil unlocked;
        manager.register_model(name, shared);
    }
    remember(name, shared, model);
    return model;
}

nb::object ManagerHandle::model(const std::string& name) const {
    const std::shared_ptr<core::Model> found = handle_->model(name);
    if (models_.contains(key(name))) return models_[key(name)];
    return nb::cast(ModelHandle(found));
}

void ManagerHandle::unload(const std::string& name, bool cancel_pending) {
    core::InferenceManager& manager = *(*handle_);
    (void)manager.model(name);
    if (models_.contains(key(name))) nb::del(models_[key(name)]);
    const ReleasedGil unlocked;
    manager.unload(name, cancel_pending ? core::Pending::cancel : core::Pending::drain);
}

void ManagerHandle::close(bool cancel_pending) {
    core::InferenceManager& manager = *(*handle_);
    models_.clear();
    const ReleasedGil unlocked;
    manager.close(cancel_pending ? core::Pending::cancel : core::Pending::drain);
}

namespace {

nb::dict to_dict(const core::ExecutionBudget::Stats& stats, const core::ExecutionBudget::Options& limits) {
    nb::dict named;
    named["executing"] = stats.executing;
    named["buffers_in_use"] = stats.buffers_in_use;
    named["queued"] = stats.queued;
    named["blocked_callers"] = stats.blocked_callers;
    named["admitted"] = stats.admitted;
    named["overloaded"] = stats.overloaded;
    named["max_executions"] = limits.max_executions;
    named["max_buffers"] = limits.max_buffers;
    named["max_queue"] = limits.max_queue;
    return named;
}

}  // namespace

nb::dict ManagerHandle::stats() const {
    const core::ExecutionBudget::Options& limits = handle_->limits();
    core::ExecutionBudget::Stats sum;
    nb::dict devices;
    for (const auto& [device, stats] : handle_->budget_stats()) {
        sum.executing += stats.executing;
        sum.buffers_in_use += stats.buffers_in_use;
        sum.queued += stats.queued;
        sum.blocked_callers += stats.blocked_callers;
        sum.admitted += stats.admitted;
        sum.overloaded += stats.overloaded;
        devices[key(device)] = to_dict(stats, limits);
    }
    nb::dict named = to_dict(sum, limits);
    named["devices"] = devices;
    return named;
}

nb::list ManagerHandle::memory_report() const {
    const core::InferenceManager& manager = *(*handle_);
    const std::vector<core::MemoryUse> uses = [&] {
        const ReleasedGil unlocked;
        return manager.memory_report();
    }();
    return to_list(uses);
}

void bind_manager(nb::module_& module) {
    nb::class_<core::InferenceManager::Loader>(module, "Loader",
                                               "How an engine loads a model; made by the engine's module.");
    nb::class_<ManagerHandle>(module, "InferenceManager", "See trtlab.InferenceManager.")
        .def(
            "__init__",
            [](ManagerHandle* self, std::size_t max_executions, std::size_t max_buffers, std::size_t max_queue) {
                new (self) ManagerHandle(std::make_shared<core::InferenceManager>(core::ExecutionBudget::Options{
                    .max_executions = max_executions, .max_buffers = max_buffers, .max_queue = max_queue}));
            },
            nb::arg("max_executions"), nb::arg("max_buffers"), nb::arg("max_queue"))
        .def("load", &ManagerHandle::load, nb::arg("name"), nb::arg("loader"),
             nb::sig("def load(self, name: str, loader: Loader) -> Model"))
        .def("register", &ManagerHandle::register_model, nb::arg("name"), nb::arg("model"),
             nb::sig("def register(self, name: str, model: Model) -> Model"))
        .def("model", &ManagerHandle::model, nb::arg("name"), nb::sig("def model(self, name: str) -> Model"))
        .def("names", [](const ManagerHandle& self) { return self.manager().names(); })
        .def("unload", &ManagerHandle::unload, nb::arg("name"), nb::arg("cancel_pending") = false)
        .def("close", &ManagerHandle::close, nb::arg("cancel_pending") = false)
        .def_prop_ro("closed", [](const ManagerHandle& self) { return self.manager().closed(); })
        .def("stats", &ManagerHandle::stats, nb::sig("def stats(self) -> dict[str, typing.Any]"))
        .def("memory_report", &ManagerHandle::memory_report,
             nb::sig("def memory_report(self) -> list[trtlab.manager.MemoryUse]"));
}

}  // namespace trtlab::bindings
