#include "module.hpp"

#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include "bridge_registry.hpp"
#include "memory.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/budget.hpp"

namespace nb = nanobind;

NB_MODULE(_core, module) {
    using namespace trtlab::bindings;
    // Objects that a program still holds when it ends are no leak.
    nb::set_leak_warnings(false);
    module.doc() = "Bindings of trtlab::core. Use the trtlab package.";
    // The error types, the list of what is closed at exit and what waits for the GIL are one for the process.
    if (PyInterpreterState_GetID(PyInterpreterState_Get()) != 0) {
        throw nb::import_error("trtlab runs in the main interpreter only: import it there, or use processes");
    }
    bind_errors();
    bind_device_bridge(module);
    bind_tensor(module);
    bind_buffer(module);
    bind_memory(module);
    bind_shared_memory(module);
    bind_future(module);
    bind_model(module);
    bind_batcher(module);
    bind_manager(module);
    bind_affinity(module);
    bind_pools(module);
    bind_thread_pool(module);
    bind_infer_bench(module);
    bind_windows(module);
    module.def("usable_cpus", &trtlab::core::usable_cpus,
               "CPUs that this process may use: its affinity mask, capped by the cgroup's quota.");
    module.def("default_executions", &trtlab::core::default_executions, nb::arg("cpus"),
               "Requests that should execute at the same time on so many CPUs, where nobody says.");
    module.def("_close_all", &close_all,
               "Close everything that has threads, cancelling what has not begun. For interpreter exit.");
    module.def(
        "_report_unraisable",
        [](nb::handle error, nb::handle where) {
            // The default sys.unraisablehook takes nothing but what the interpreter itself makes.
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(error.ptr())), error.ptr());
            PyErr_WriteUnraisable(where.ptr());
        },
        nb::arg("error"), nb::arg("where"), "Calls sys.unraisablehook.");
    module.def(
        "_after_fork",
        [] {
            note_fork();
            forget_after_fork();
        },
        "For os.register_at_fork, in the child.");
    module.def(
        "_live_objects",
        [] {
            Garbage::collect();
            BorrowedBuffers::free_idle();
            free_idle_bridge();
            return trtlab::core::RefCounted::live();
        },
        "Reference-counted C++ objects alive in the process. For leak tests.");
    module.def("_collect", &Garbage::collect, "Gives back what finished requests had borrowed from Python.");
}
