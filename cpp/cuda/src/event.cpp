#include <cmath>
#include <cstring>

#include "api.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda {
namespace {

unsigned flags_of(Event::Kind kind) noexcept {
    switch (kind) {
        case Event::Kind::timing:
            return cudaEventDefault;
        case Event::Kind::blocking:
            return cudaEventDisableTiming | cudaEventBlockingSync;
        case Event::Kind::shared:
            return cudaEventDisableTiming | cudaEventInterprocess;
        case Event::Kind::plain:
            break;
    }
    return cudaEventDisableTiming;
}

void check(const Device& device, cudaError_t status, const char* call) {
    device.library()->check(status, call, device.ordinal());
}

static_assert(sizeof(cudaIpcEventHandle_t) == sizeof(IpcEventHandle));

}  // namespace

Event::Event(const Device& device, Kind kind) : device_(device) {
    const DeviceGuard guard(device);
    check(device, device.library()->api().EventCreateWithFlags(&handle_, flags_of(kind)), "cudaEventCreateWithFlags");
}

Event::Event(const Device& device, const IpcEventHandle& handle) : device_(device) {
    const DeviceGuard guard(device);
    cudaIpcEventHandle_t raw;
    std::memcpy(&raw, handle.data(), sizeof(raw));
    check(device, device.library()->api().IpcOpenEventHandle(&handle_, raw), "cudaIpcOpenEventHandle");
}

Event::Event(Event&& other) noexcept
    : device_(std::move(other.device_)), handle_(std::exchange(other.handle_, nullptr)), fork_(other.fork_) {}

Event::~Event() {
    if (handle_ == nullptr || fork_.forked()) return;
    call_quietly(device_, "cudaEventDestroy", [&](const Library::Api& api) { return api.EventDestroy(handle_); });
}

void Event::record(const StreamView& stream) const {
    const DeviceGuard guard(stream.device());
    check(device_, device_.library()->api().EventRecord(handle_, stream.handle()), "cudaEventRecord");
}

bool Event::done() const {
    const DeviceGuard guard(device_);
    const int status = query();
    if (status == cudaErrorNotReady) {
        // It would be found by whoever asks next for the thread's last error, such as a TensorRT plugin.
        (void)device_.library()->api().GetLastError();
        return false;
    }
    device_.library()->check(status, "cudaEventQuery", device_.ordinal());
    return true;
}

int Event::query() const noexcept { return device_.library()->api().EventQuery(handle_); }

void Event::synchronize() const {
    const DeviceGuard guard(device_);
    check(device_, device_.library()->api().EventSynchronize(handle_), "cudaEventSynchronize");
}

std::chrono::nanoseconds Event::elapsed_since(const Event& begin) const {
    const DeviceGuard guard(device_);
    float milliseconds = 0;
    check(device_, device_.library()->api().EventElapsedTime(&milliseconds, begin.handle_, handle_),
          "cudaEventElapsedTime");
    return std::chrono::nanoseconds(std::llround(static_cast<double>(milliseconds) * 1e6));
}

IpcEventHandle Event::ipc_handle() const {
    const DeviceGuard guard(device_);
    cudaIpcEventHandle_t raw;
    check(device_, device_.library()->api().IpcGetEventHandle(&raw, handle_), "cudaIpcGetEventHandle");
    IpcEventHandle handle;
    std::memcpy(handle.data(), &raw, sizeof(raw));
    return handle;
}

}  // namespace trtlab::cuda
