#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/variant.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <variant>

#include "python.hpp"
#include "trtlab/core/inference_manager.hpp"
#include "trtlab/openvino/library.hpp"
#include "trtlab/openvino/runner.hpp"

namespace nb = nanobind;
namespace ov = trtlab::openvino;
namespace core = trtlab::core;

namespace {

std::span<const std::byte> bytes_of(const nb::bytes& bytes) {
    return {static_cast<const std::byte*>(static_cast<const void*>(bytes.c_str())), bytes.size()};
}

/// Python's Library. C++ gets the pointer inside: one that nanobind made would ask for the GIL on whichever thread drops
/// it, and the last to drop it is a lane of OpenVINO's.
struct LibraryHandle {
    std::shared_ptr<ov::Library> library;
};

core::InferenceManager::Loader make_loader(const LibraryHandle& handle,
                                           const std::variant<std::string, nb::bytes>& source, const nb::bytes& weights,
                                           std::size_t streams, std::size_t threads, const std::string& precision,
                                           std::optional<double> queue_timeout_s,
                                           const std::map<std::string, std::string>& properties) {
    const std::shared_ptr<ov::Library> library = handle.library;
    ov::Runner::Options options;
    options.streams = streams;
    options.threads = threads;
    options.precision = precision;
    options.queue_timeout = core::kForever;
    if (queue_timeout_s)
        options.queue_timeout = std::chrono::nanoseconds(static_cast<std::int64_t>(*queue_timeout_s * 1e9));
    options.properties = properties;
    const auto* memory = std::get_if<nb::bytes>(&source);
    const std::string path = memory != nullptr ? std::string() : std::get<std::string>(source);
    // Views of bytes objects that the loader's Python object keeps alive: it runs without the GIL.
    const std::span<const std::byte> model = memory != nullptr ? bytes_of(*memory) : std::span<const std::byte>();
    const bool from_memory = memory != nullptr;
    return [=, weights = bytes_of(weights)](const std::string& name, core::InferenceManager& manager) {
        ov::Runner::Options resolved = options;
        resolved.name = name;
        resolved.budget = manager.budget();
        return from_memory ? ov::Runner::load_from_memory(library, model, resolved, weights)
                           : ov::Runner::load(library, path, resolved);
    };
}

}  // namespace

NB_MODULE(_openvino, module) {
    module.doc() = "Bindings of trtlab::openvino. Use trtlab.openvino.";
    nb::module_::import_("trtlab._bindings._core");

    nb::class_<LibraryHandle>(module, "Library", "OpenVINO's runtime, opened from a shared library.")
        .def(
            "__init__",
            [](LibraryHandle* self, const std::string& path, const std::vector<std::string>& directories) {
                const trtlab::bindings::ReleasedGil unlocked;
                new (self) LibraryHandle{ov::Library::open({.path = path, .directories = directories})};
            },
            nb::arg("path") = "", nb::arg("directories") = std::vector<std::string>(),
            "Open the file ``path``, or else what TRTLAB_OPENVINO_LIBRARY names, or else look through ``directories`` "
            "and the\n"
            "loader's own. Takes some 10 ms, without the GIL. Raises NotFound, EngineError.")
        .def_prop_ro(
            "version", [](const LibraryHandle& self) { return self.library->version(); }, "OpenVINO's build number.")
        .def_prop_ro(
            "path", [](const LibraryHandle& self) { return self.library->path(); }, "The file that was opened.")
        .def_prop_ro(
            "devices", [](const LibraryHandle& self) { return self.library->devices(); },
            nb::call_guard<trtlab::bindings::ReleasedGil>(), "Devices that can be used now: 'CPU', ...")
        .def(
            "device_property",
            [](const LibraryHandle& self, const std::string& device, const std::string& key) {
                return self.library->device_property(device, key);
            },
            nb::arg("device"), nb::arg("key"), nb::call_guard<trtlab::bindings::ReleasedGil>(),
            "A property in OpenVINO's words, such as ('CPU', 'FULL_DEVICE_NAME'). Raises EngineError.");

    module.def("loader", &make_loader, nb::arg("library"), nb::arg("source"), nb::arg("weights"), nb::arg("streams"),
               nb::arg("threads"), nb::arg("precision"), nb::arg("queue_timeout_s").none(), nb::arg("properties"),
               nb::keep_alive<0, 2>(), nb::keep_alive<0, 3>(),
               nb::sig("def loader(library: Library, source: str | bytes, weights: bytes, streams: int, threads: int, "
                       "precision: str, "
                       "queue_timeout_s: float | None, properties: dict[str, str]) -> trtlab._bindings._core.Loader"),
               "What InferenceManager.load runs to load the file ``source``, or the model's bytes.");
}
