#include "module.hpp"

#include "bridge.hpp"

NB_MODULE(_cuda, module) {
    module.doc() = "Bindings of trtlab::cuda. Use trtlab.cuda.";
    nanobind::module_::import_("trtlab._bindings._core");
    using namespace trtlab::cuda;
    bind_device(module);
    bind_buffer(module);
    bind_stream(module);
    bind_bridge(module);
}
