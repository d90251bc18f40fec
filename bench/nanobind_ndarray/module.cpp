// The rival of trtlab's own conversion of arrays: what nanobind offers for it, and nothing else.

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

namespace nb = nanobind;

NB_MODULE(nanobind_ndarray, module) {
    module.def("nothing", [](nb::handle) {}, nb::arg("x"));
    module.def("take", [](const nb::ndarray<nb::ro>& array) { return array.data() != nullptr; }, nb::arg("x"));
}
