#include "low_level.hpp"
#include "python.hpp"
#include "runner.hpp"

namespace nb = nanobind;

NB_MODULE(_tensorrt, module) {
    module.doc() = "Bindings of trtlab::tensorrt. Use trtlab.tensorrt.";
    nb::module_::import_("trtlab._bindings._core");
    trtlab::tensorrt::bind_low_level(module);
    trtlab::tensorrt::bind_runner(module);
}
