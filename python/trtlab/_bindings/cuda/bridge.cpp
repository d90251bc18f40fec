#include "bridge.hpp"

#include <array>
#include <map>
#include <memory>
#include <optional>

#include "device_bridge.hpp"
#include "library_handle.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/fence.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/stream.hpp"
#include "trtlab/cuda/window_memory.hpp"

namespace trtlab::cuda {
namespace nb = nanobind;
using bindings::ReleasedGil;

namespace {

/// GPU memory from and to Python. What is kept of each device is guarded by the GIL, and never removed.
class Bridge final : public bindings::DeviceBridge {
public:
    explicit Bridge(std::shared_ptr<const Library> library) : library_(std::move(library)) {}

    std::uintptr_t stream(int device) override {
        Gpu& gpu = of(device);
        gpu.turn = (gpu.turn + 1) % gpu.imports.size();
        return reinterpret_cast<std::uintptr_t>(gpu.imports[gpu.turn].handle());
    }

    core::Ref<const core::Fence> fence_after(int device, std::uintptr_t stream) override {
        Gpu& gpu = of(device);
        if (!gpu.fences) gpu.fences.emplace(gpu.device);
        const EventFences fences = *gpu.fences;  // `free_idle` may come while the GIL is away
        // CUDA's own numbers of the default streams are those of the protocol.
        const StreamView view(gpu.device, reinterpret_cast<StreamHandle>(stream));
        const ReleasedGil unlocked;  // a stream that has no room for more makes its caller wait
        return fences.record(view);
    }

    core::Device device_of(const void* address) override { return cuda::device_of(*library_, address); }

    core::Tensor to_host(const core::Tensor& tensor) override {
        if (!tensor.contiguous()) {
            throw core::InvalidArgument("a tensor " + tensor.shape().to_string() + " with gaps in memory of " +
                                        tensor.device().to_string() +
                                        " is not copied to the host: make a dense one first, such as by a GPU library "
                                        "that takes it through DLPack");
        }
        const Stream& copies = of(tensor.device().index).copies;
        const ReleasedGil unlocked;
        core::Tensor copy = core::Tensor::allocate(tensor.dtype(), tensor.shape());
        if (const auto* fence = dynamic_cast<const EventFence*>(tensor.fence().get())) copies.wait(fence->event());
        copies.copy({copy.data(), copy.size_bytes(), {}}, {tensor.data(), tensor.size_bytes(), tensor.device()});
        copies.synchronize();
        return copy;
    }

    void wait(const core::Fence& fence) override {
        const ReleasedGil unlocked;
        dynamic_cast<const EventFence&>(fence).event().synchronize();
    }

    std::unique_ptr<core::WindowMemory> window_memory(std::string_view device,
                                                      const core::WindowStream::Options& options) override {
        const ReleasedGil unlocked;  // the first use of a device may take a second
        return std::make_unique<WindowMemory>(Device::named(library_, device), options);
    }

    void free_idle() noexcept override {
        for (auto& [ordinal, gpu] : gpus_) gpu->fences.reset();
    }

private:
    /// What is kept of one device. Several streams take turns as the one that exporters are told, so that memory which is
    /// late delays few others; waiting streams share the connections to the GPU with working ones, so there are not many.
    struct Gpu {
        explicit Gpu(const Device& device_)
            : device(device_),
              imports{Stream(device), Stream(device), Stream(device), Stream(device)},
              copies(device) {}
        Device device;
        std::array<Stream, 4> imports;
        std::size_t turn = 0;
        Stream copies;
        std::optional<EventFences> fences;
    };

    Gpu& of(int device) {
        const auto found = gpus_.find(device);
        if (found != gpus_.end()) return *found->second;
        std::unique_ptr<Gpu> made;
        {
            const ReleasedGil unlocked;  // the first use of a device may take a second
            made = std::make_unique<Gpu>(Device(library_, device));
        }
        // If another thread was faster, it is its that is used.
        return *gpus_.emplace(device, std::move(made)).first->second;
    }

    std::shared_ptr<const Library> library_;
    std::map<int, std::unique_ptr<Gpu>> gpus_;
};

}  // namespace

void bind_bridge(nb::module_& module) {
    nb::class_<Bridge, bindings::DeviceBridge>(module, "Bridge", "GPU memory from and to Python. Private.")
        .def(
            "__init__", [](Bridge* self, const LibraryHandle& handle) { new (self) Bridge(handle.library); },
            nb::arg("library"));
}

}  // namespace trtlab::cuda
