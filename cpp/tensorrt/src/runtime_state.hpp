#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "abi.hpp"
#include "allocator.hpp"
#include "call.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/tensorrt/runtime.hpp"

namespace trtlab::tensorrt {

struct Runtime::State {
    State(std::shared_ptr<const Library> library_, std::optional<cuda::Device> device_, const Options& options);
    ~State();
    State(const State&) = delete;
    State& operator=(const State&) = delete;

    const Library::Abi& abi() const noexcept { return library->abi(); }
    /// "TensorRT-RTX 1.4.0 on cuda:0"
    std::string where() const { return library->to_string() + (device ? " on " + device->to_string() : ""); }

    const std::shared_ptr<const Library> library;
    const std::optional<cuda::Device> device;
    Log log;
    std::unique_ptr<Allocator> allocator;
    abi::Handle<abi::IRuntime> handle;
    int max_threads = 0;
    /// Held by calls that reach everywhere: TensorRT's own threads say nothing of which call they work for.
    std::mutex one_at_a_time;
};

/// Makes the device current, if there is one, for the length of a scope.
class CurrentDevice {
public:
    explicit CurrentDevice(const std::optional<cuda::Device>& device) {
        if (device) guard_.emplace(*device);
    }

private:
    std::optional<cuda::DeviceGuard> guard_;
};

/// For destructors: destroys with the device current, and logs where it can't be made so.
template <class Of>
void destroy(abi::Handle<Of>& handle, const std::optional<cuda::Device>& device) noexcept {
    if (!handle) return;
    try {
        const CurrentDevice current(device);
        handle.reset();
    } catch (...) {
        core::log_current_exception("destroying an object of TensorRT's");
        handle.reset();
    }
}

}  // namespace trtlab::tensorrt
