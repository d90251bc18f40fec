#include "runner.hpp"

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "library_handle.hpp"
#include "python.hpp"
#include "trtlab/core/inference_manager.hpp"
#include "trtlab/core/replicas.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/cuda/library.hpp"
#include "trtlab/tensorrt/runner.hpp"

namespace trtlab::tensorrt {
namespace nb = nanobind;

namespace {

using NamedShapes = std::map<std::string, std::vector<std::int64_t>>;

core::InferenceManager::Loader make_loader(const LibraryHandle& handle, const std::string& cudart,
                                           const std::vector<std::string>& devices, const nb::bytes& plan,
                                           bool outputs_on_device, bool graphs, std::size_t max_graphs,
                                           const std::vector<NamedShapes>& warm_up, bool skip_warm_up,
                                           bool managed_weights, std::optional<std::size_t> weight_streaming_budget,
                                           bool timing, bool host_code_allowed, std::optional<double> queue_timeout_s) {
    Runner::Options options;
    options.outputs = outputs_on_device ? Runner::Outputs::device : Runner::Outputs::host;
    options.graphs = graphs;
    options.max_graphs = max_graphs;
    for (const NamedShapes& shapes : warm_up) {
        Runner::Shapes set;
        for (const auto& [input, dims] : shapes) set.emplace(input, core::Shape(dims));
        options.warm_up.push_back(std::move(set));
    }
    options.skip_warm_up = skip_warm_up;
    options.weights = managed_weights ? Runner::Weights::managed : Runner::Weights::device;
    options.weight_streaming_budget = weight_streaming_budget;
    options.timing = timing;
    options.host_code_allowed = host_code_allowed;
    options.queue_timeout = core::kForever;
    if (queue_timeout_s)
        options.queue_timeout = std::chrono::nanoseconds(static_cast<std::int64_t>(*queue_timeout_s * 1e9));
    // A view of the bytes object that the loader's Python object keeps alive: it runs without the GIL.
    const std::span<const std::byte> bytes(static_cast<const std::byte*>(static_cast<const void*>(plan.c_str())),
                                           plan.size());
    return [library = handle.library, cudart, devices, bytes, options](const std::string& name,
                                                                       core::InferenceManager& manager) {
        const auto cuda_library = cuda::Library::open({.path = cudart, .directories = {}});
        std::vector<std::shared_ptr<core::Model>> models;
        for (const std::string& wanted : devices) {
            const cuda::Device device = cuda::Device::named(cuda_library, wanted);
            Runner::Options resolved = options;
            resolved.name = name;
            resolved.budget = manager.budget(device.to_string());
            models.push_back(Runner::load_from_memory(library, device, bytes, resolved));
        }
        if (models.size() == 1) return models.front();
        return std::shared_ptr<core::Model>(std::make_shared<core::Replicas>(name, std::move(models)));
    };
}

}  // namespace

void bind_runner(nb::module_& module) {
    module.def(
        "loader", &make_loader, nb::arg("library"), nb::arg("cudart"), nb::arg("devices"), nb::arg("plan"),
        nb::arg("outputs_on_device"), nb::arg("graphs"), nb::arg("max_graphs"), nb::arg("warm_up"),
        nb::arg("skip_warm_up"), nb::arg("managed_weights"), nb::arg("weight_streaming_budget").none(),
        nb::arg("timing"), nb::arg("host_code_allowed"), nb::arg("queue_timeout_s").none(), nb::keep_alive<0, 4>(),
        nb::sig("def loader(library: Library, cudart: str, devices: collections.abc.Sequence[str], plan: bytes, "
                "outputs_on_device: bool, graphs: bool, max_graphs: int, "
                "warm_up: collections.abc.Sequence[dict[str, collections.abc.Sequence[int]]], skip_warm_up: bool, "
                "managed_weights: bool, weight_streaming_budget: int | None, timing: bool, host_code_allowed: bool, "
                "queue_timeout_s: float | None) -> trtlab._bindings._core.Loader"),
        "What InferenceManager.load runs to load a plan onto one GPU, or onto each of several.");
}

}  // namespace trtlab::tensorrt
