#include "trtlab/cuda/device.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>

#include "library_handle.hpp"
#include "module.hpp"

namespace trtlab::cuda {
namespace nb = nanobind;
using bindings::ReleasedGil;

namespace {

template <class Value>
std::optional<Value> if_known(Value value) {
    return value >= 0 ? std::optional(value) : std::nullopt;
}

void bind_library(nb::module_& module) {
    nb::class_<LibraryHandle>(module, "Library", "CUDA's runtime, opened from a shared library.")
        .def(
            "__init__",
            [](LibraryHandle* self, const std::string& path, const std::vector<std::string>& directories) {
                const ReleasedGil unlocked;
                new (self) LibraryHandle{Library::open({.path = path, .directories = directories})};
            },
            nb::arg("path") = "", nb::arg("directories") = std::vector<std::string>(),
            "Open the file ``path``, or else what TRTLAB_CUDART_LIBRARY names, or else look through ``directories`` "
            "and "
            "the\n"
            "loader's own. Needs no driver. Takes some 1 ms, without the GIL. Raises NotFound, EngineError.")
        .def_prop_ro(
            "version",
            [](const LibraryHandle& self) {
                const int version = self.library->version();
                return std::make_tuple(version / 1000, version % 1000 / 10);
            },
            "CUDA's version, of the file that was opened: (13, 0).")
        .def_prop_ro(
            "driver_version",
            [](const LibraryHandle& self) -> std::optional<std::tuple<int, int>> {
                const int version = self.library->driver_version();
                if (version == 0) return std::nullopt;
                return std::make_tuple(version / 1000, version % 1000 / 10);
            },
            "The newest CUDA that the installed driver supports; None without a driver.")
        .def_prop_ro(
            "path", [](const LibraryHandle& self) { return self.library->path(); }, "The file that was opened.")
        .def(
            "device_count", [](const LibraryHandle& self) { return self.library->device_count(); },
            nb::call_guard<ReleasedGil>(),
            "GPUs that this process may use, asked anew at each call; 0 where there is none or no driver. The first "
            "call "
            "starts\n"
            "the driver, which may take a second, without the GIL. Raises nothing.")
        .def(
            "why_no_device", [](const LibraryHandle& self) { return self.library->why_no_device(); },
            nb::call_guard<ReleasedGil>(), "Why there is no GPU, in words; empty if there is one. Without the GIL.")
        .def(
            "device",
            [](const LibraryHandle& self, const std::string& name) { return Device::named(self.library, name); },
            nb::arg("name"), nb::call_guard<ReleasedGil>(),
            "The GPU \"cuda\", \"cuda:1\" or \"cuda:GPU-<uuid>\". Without the GIL. Raises InvalidArgument, NotFound.")
        .def(
            "devices", [](const LibraryHandle& self) { return Device::list(self.library); },
            nb::call_guard<ReleasedGil>(), "All GPUs that this process may use. Without the GIL.");
}

}  // namespace

void bind_device(nb::module_& module) {
    nb::class_<Device::Memory>(module, "DeviceMemory", "Memory of a GPU as the driver sees it.")
        .def_ro("free_bytes", &Device::Memory::free_bytes, "Bytes that nobody uses.")
        .def_ro("total_bytes", &Device::Memory::total_bytes, "Bytes that there are.");

    nb::class_<Device::Load>(module, "DeviceLoad", "What a GPU is doing, as NVML says; None where it does not.")
        .def_prop_ro(
            "gpu_percent", [](const Device::Load& self) { return if_known(self.gpu_percent); },
            "Per cent of the last sample period in which a kernel ran.")
        .def_prop_ro(
            "power_watts", [](const Device::Load& self) { return if_known(self.power_watts); }, "What it draws.")
        .def_prop_ro(
            "power_limit_watts", [](const Device::Load& self) { return if_known(self.power_limit_watts); },
            "What it may draw.")
        .def_prop_ro(
            "temperature_celsius", [](const Device::Load& self) { return if_known(self.temperature_celsius); },
            "Of the GPU's die.");

    nb::class_<Device>(module, "Device", "A GPU, as CUDA counts those that the process may see.")
        .def_prop_ro("ordinal", &Device::ordinal, "CUDA's number of it.")
        .def_prop_ro(
            "name", [](const Device& self) { return self.properties().name; }, "\"NVIDIA H100 80GB HBM3\".")
        .def_prop_ro(
            "uuid", [](const Device& self) { return self.properties().uuid; },
            "\"GPU-...\", as nvidia-smi prints it; names the same GPU in every process.")
        .def_prop_ro(
            "pci_bus_id", [](const Device& self) { return self.properties().pci_bus_id; }, "\"0000:06:00.0\".")
        .def_prop_ro(
            "compute_capability",
            [](const Device& self) {
                return std::make_tuple(self.properties().compute_major, self.properties().compute_minor);
            },
            "(9, 0).")
        .def_prop_ro(
            "multiprocessors", [](const Device& self) { return self.properties().multiprocessors; },
            "Streaming multiprocessors.")
        .def_prop_ro(
            "total_memory_bytes", [](const Device& self) { return self.properties().total_memory_bytes; },
            "Memory that it has.")
        .def_prop_ro(
            "copy_engines", [](const Device& self) { return self.properties().copy_engines; },
            "Copies that it makes at the same time, and while it computes.")
        .def_prop_ro(
            "numa_node", [](const Device& self) { return if_known(self.properties().numa_node); },
            "The nearest of the host's; None where nobody knows, and where there is one only.")
        .def_prop_ro(
            "cpus",
            [](const Device& self) {
                const core::CpuSet& cpus = self.properties().cpus;
                return std::vector<int>(cpus.begin(), cpus.end());
            },
            "The nearest of the host's; empty where nobody knows.")
        .def("memory", &Device::memory, nb::call_guard<ReleasedGil>(),
             "Bytes that are free and that there are, other processes included. Without the GIL. Raises CudaError.")
        .def("load", &Device::load, nb::call_guard<ReleasedGil>(), "What it is doing. Without the GIL.")
        .def("synchronize", &Device::synchronize, nb::call_guard<ReleasedGil>(),
             "Wait until everything that was sent to it is done. Without the GIL. Raises CudaError.")
        .def("__str__", &Device::to_string)
        .def("__repr__", [](const Device& self) {
            return "trtlab.cuda.Device(" + self.to_string() + ", " + self.properties().name + ")";
        });

    bind_library(module);
}

}  // namespace trtlab::cuda
