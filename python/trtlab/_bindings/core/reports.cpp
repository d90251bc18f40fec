// What models and managers tell of themselves, as Python's types.
#include "reports.hpp"

#include <nanobind/stl/string.h>

namespace trtlab::bindings {
namespace nb = nanobind;

nb::dict to_dict(const core::ModelStats& stats) {
    nb::dict named;
    named["completed"] = stats.completed;
    named["failed"] = stats.failed;
    named["cancelled"] = stats.cancelled;
    named["queue_s"] = seconds(stats.queue);
    named["input_s"] = seconds(stats.input);
    named["execute_s"] = seconds(stats.execute);
    named["output_s"] = seconds(stats.output);
    named["device_timed"] = stats.device_timed;
    named["enqueue_s"] = seconds(stats.enqueue);
    named["h2d_s"] = seconds(stats.h2d);
    named["compute_s"] = seconds(stats.compute);
    named["d2h_s"] = seconds(stats.d2h);
    return named;
}

nb::list to_list(const std::vector<core::MemoryUse>& uses) {
    const nb::object make = nb::module_::import_("trtlab.manager").attr("MemoryUse");
    nb::list all;
    for (const core::MemoryUse& use : uses) {
        all.append(make(use.owner, use.what, use.device.to_string(), use.size_bytes));
    }
    return all;
}

}  // namespace trtlab::bindings
