#include "bridge_registry.hpp"

#include "errors.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

// Guarded by the GIL. Never destroyed: CUDA may be gone before the interpreter is, and takes its objects with it.
DeviceBridge* registered = nullptr;
int made_in = 0;

nb::object make_bridge() {
    try {
        const nb::object library = nb::module_::import_("trtlab.cuda").attr("library")();
        return nb::module_::import_("trtlab._bindings._cuda").attr("Bridge")(library);
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_ImportError)) throw;
        throw core::EngineError(std::string("GPU memory needs trtlab's cuda layer, which cannot be imported: ") +
                                describe(error.value()) +
                                "; copy the array to host memory, or install a trtlab that has it");
    }
}

}  // namespace

DeviceBridge& device_bridge() {
    if (registered == nullptr) {
        nb::object made = make_bridge();
        // Another thread may have been faster while Python ran.
        if (registered == nullptr) {
            registered = nb::cast<DeviceBridge*>(made);
            made_in = generation();
            made.release();
        }
    }
    refuse_forked(made_in, "use of CUDA");
    return *registered;
}

void free_idle_bridge() noexcept {
    if (registered != nullptr && made_in == generation()) registered->free_idle();
}

void bind_device_bridge(nb::module_& module) {
    nb::class_<DeviceBridge>(module, "DeviceBridge", "What the core module asks of CUDA. Private.");
}

}  // namespace trtlab::bindings
