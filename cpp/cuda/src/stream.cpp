#include "trtlab/cuda/stream.hpp"

#include <algorithm>

#include "api.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::cuda {
namespace {

void check(const Device& device, cudaError_t status, const char* call) {
    device.library()->check(status, call, device.ordinal());
}

std::string in_words(const core::BufferView& range) {
    return std::to_string(range.size_bytes) + " bytes on " + range.device.to_string();
}

void require_address(const core::BufferView& range, const char* what, const Device& device) {
    if (range.data == nullptr && range.size_bytes != 0) {
        throw core::InvalidArgument(device.to_string() + ": the " + what + ", " + in_words(range) +
                                    ", has the address null; allocate it first");
    }
}

}  // namespace

// Every member makes the stream's device current, although CUDA would find it by the handle: a thread that has no device
// yet would otherwise start one on cuda:0, for some hundred MiB of its memory.

void StreamView::synchronize() const {
    const DeviceGuard guard(device_);
    check(device_, device_.library()->api().StreamSynchronize(handle_), "cudaStreamSynchronize");
}

bool StreamView::done() const {
    const DeviceGuard guard(device_);
    const Library::Api& api = device_.library()->api();
    const cudaError_t status = api.StreamQuery(handle_);
    if (status == cudaErrorNotReady) {
        // It would be found by whoever asks next for the thread's last error, such as a TensorRT plugin.
        (void)api.GetLastError();
        return false;
    }
    check(device_, status, "cudaStreamQuery");
    return true;
}

void StreamView::wait(const Event& event) const { wait(event.handle()); }

void StreamView::wait(EventHandle event) const {
    const DeviceGuard guard(device_);
    check(device_, device_.library()->api().StreamWaitEvent(handle_, event, cudaEventWaitDefault),
          "cudaStreamWaitEvent");
}

void StreamView::copy(const core::BufferView& destination, const core::BufferView& source) const {
    if (destination.size_bytes != source.size_bytes) {
        throw core::InvalidArgument(device_.to_string() + ": a copy from " + in_words(source) + " to " +
                                    in_words(destination) + ": the sizes differ; take a slice of the longer one");
    }
    require_address(destination, "destination of a copy", device_);
    require_address(source, "source of a copy", device_);
    copy_unchecked(destination.data, source.data, source.size_bytes);
}

void StreamView::copy_unchecked(void* destination, const void* source, std::size_t size_bytes) const {
    if (size_bytes == 0) return;
    const DeviceGuard guard(device_);
    check(device_, device_.library()->api().MemcpyAsync(destination, source, size_bytes, cudaMemcpyDefault, handle_),
          "cudaMemcpyAsync");
}

void StreamView::fill(const core::BufferView& destination, std::uint8_t value) const {
    require_address(destination, "range to fill", device_);
    if (destination.size_bytes == 0) return;
    const DeviceGuard guard(device_);
    check(device_, device_.library()->api().MemsetAsync(destination.data, value, destination.size_bytes, handle_),
          "cudaMemsetAsync");
}

Stream::Stream(const Device& device, int priority) : StreamView(device, nullptr) {
    const DeviceGuard guard(device);
    const Library::Api& api = device.library()->api();
    int lowest = 0, highest = 0;  // numerically the other way round
    check(device, api.DeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
    check(device,
          api.StreamCreateWithPriority(&handle_, cudaStreamNonBlocking,
                                       std::clamp(priority, std::min(highest, lowest), std::max(highest, lowest))),
          "cudaStreamCreateWithPriority");
}

Stream::Stream(Stream&& other) noexcept : StreamView(std::move(other)), fork_(other.fork_) { other.handle_ = nullptr; }

Stream::~Stream() {
    if (handle_ == nullptr || fork_.forked()) return;
    call_quietly(device_, "cudaStreamDestroy", [&](const Library::Api& api) { return api.StreamDestroy(handle_); });
}

}  // namespace trtlab::cuda
