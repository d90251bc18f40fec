#include "simulation.hpp"

namespace fake {
namespace {

/// A stream that a recording draws in, because it waits for an event of it.
void join(Stream& stream, const std::shared_ptr<Capture>& capture) {
    if (stream.capture == nullptr) {
        stream.capture = capture;
        capture->joined[&stream] = false;
    }
}

/// `waiter` takes over what `of` has put into the recording: whoever waits for `waiter` has waited for both.
void hand_over(Capture& capture, Stream* of, Stream* waiter) {
    const auto from = capture.joined.find(of);
    if (from == capture.joined.end() || of == waiter) return;
    const bool held_work = from->second;
    from->second = false;
    if (const auto to = capture.joined.find(waiter); to != capture.joined.end()) to->second |= held_work;
}

int wait(std::unique_lock<std::mutex>& lock, World& world, const std::shared_ptr<Stream>& stream,
         const std::shared_ptr<Event>& event) {
    if (const std::shared_ptr<Capture> capture = event->capture.lock()) {
        if (stream->capture != nullptr && stream->capture != capture) return cudaErrorStreamCaptureMerge;
        join(*stream, capture);
        hand_over(*capture, event->captured_in, stream.get());
        // A stream that was drawn in has to be waited for in turn, even if it adds nothing of its own.
        if (const auto joined = capture->joined.find(stream.get()); joined != capture->joined.end())
            joined->second = true;
        return 0;
    }
    if (stream->capture != nullptr) {
        if (event->recorded == 0) return 0;
        stream->capture->broken = true;
        return cudaErrorStreamCaptureIsolation;
    }
    if (event->completed >= event->recorded) return 0;
    Entry entry;
    entry.kind = Entry::Kind::wait;
    entry.event = event;
    entry.version = event->recorded;
    return world.enqueue(lock, stream, std::move(entry));
}

}  // namespace
}  // namespace fake

extern "C" {

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* handle, unsigned, int) {
    fake::Call call("cudaStreamCreateWithPriority");
    if (call.failed()) return call.result();
    auto stream = std::make_shared<fake::Stream>();
    stream->device = call.world_.thread().device;
    *handle = reinterpret_cast<cudaStream_t>(stream.get());
    call.world_.streams.push_back(std::move(stream));
    return call.done(0);
}

cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    std::shared_ptr<fake::Capture> capture;  // goes after the lock does: what it holds may be a test's
    fake::Call call("cudaStreamDestroy");
    const auto stream = handle != nullptr ? call.world_.find_stream(handle) : nullptr;
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    stream->destroyed = true;
    capture.swap(stream->capture);
    if (capture != nullptr && capture->origin == stream.get()) capture->broken = true;
    if (stream->queue.empty() && !stream->running) std::erase(call.world_.streams, stream);
    return call.result();
}

cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    fake::Call call("cudaStreamSynchronize");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (stream->capture != nullptr) {
        stream->capture->broken = true;
        return call.done(cudaErrorStreamCaptureUnsupported);
    }
    const std::uint64_t ticket = stream->accepted;
    call.world_.changed.wait(call.lock, [&] { return stream->done >= ticket; });
    return call.done(call.world_.trouble(stream->device));
}

cudaError_t cudaStreamQuery(cudaStream_t handle) {
    fake::Call call("cudaStreamQuery");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (stream->capture != nullptr) {
        stream->capture->broken = true;
        return call.done(cudaErrorStreamCaptureUnsupported);
    }
    return call.done(stream->done < stream->accepted ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event_handle, unsigned) {
    fake::Call call("cudaStreamWaitEvent");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    const auto event = call.world_.find_event(event_handle);
    if (stream == nullptr || event == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    return call.done(fake::wait(call.lock, call.world_, stream, event));
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* handle, unsigned flags) {
    fake::Call call("cudaEventCreateWithFlags");
    if (call.failed()) return call.result();
    if ((flags & cudaEventInterprocess) != 0 && (flags & cudaEventDisableTiming) == 0)
        return call.done(cudaErrorInvalidValue);
    auto event = std::make_shared<fake::Event>();
    event->device = call.world_.thread().device;
    event->timing = (flags & cudaEventDisableTiming) == 0;
    *handle = reinterpret_cast<cudaEvent_t>(event.get());
    call.world_.events.emplace(event.get(), event);
    return call.done(0);
}

cudaError_t cudaEventDestroy(cudaEvent_t handle) {
    fake::Call call("cudaEventDestroy");
    if (call.world_.events.erase(handle) == 0) return call.done(cudaErrorInvalidResourceHandle);
    return call.result();
}

cudaError_t cudaEventRecord(cudaEvent_t handle, cudaStream_t stream_handle) {
    fake::Call call("cudaEventRecord");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(stream_handle);
    const auto event = call.world_.find_event(handle);
    if (stream == nullptr || event == nullptr || stream->device != event->device)
        return call.done(cudaErrorInvalidResourceHandle);
    if (stream->capture != nullptr) {
        event->capture = stream->capture;
        event->captured_in = stream.get();
        return call.done(0);
    }
    event->capture.reset();
    fake::Entry entry;
    entry.kind = fake::Entry::Kind::record;
    entry.event = event;
    entry.version = ++event->recorded;
    return call.done(call.world_.enqueue(call.lock, stream, std::move(entry)));
}

cudaError_t cudaEventQuery(cudaEvent_t handle) {
    fake::Call call("cudaEventQuery", fake::Call::a_driver);
    if (call.failed()) return call.result();
    const auto event = call.world_.find_event(handle);
    if (event == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (const int trouble = call.world_.trouble(event->device); trouble != 0) return call.done(trouble);
    if (!event->capture.expired()) return call.done(cudaErrorCapturedEvent);
    if (call.world_.disturbs_capture()) return call.done(cudaErrorStreamCaptureUnsupported);
    return call.done(event->completed < event->recorded ? cudaErrorNotReady : cudaSuccess);
}

cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    fake::Call call("cudaEventSynchronize");
    if (call.failed()) return call.result();
    const auto event = call.world_.find_event(handle);
    if (event == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (!event->capture.expired()) return call.done(cudaErrorCapturedEvent);
    const std::uint64_t version = event->recorded;
    call.world_.changed.wait(call.lock, [&] { return event->completed >= version; });
    return call.done(call.world_.trouble(event->device));
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin_handle, cudaEvent_t end_handle) {
    fake::Call call("cudaEventElapsedTime");
    if (call.failed()) return call.result();
    const auto begin = call.world_.find_event(begin_handle);
    const auto end = call.world_.find_event(end_handle);
    if (begin == nullptr || end == nullptr || !begin->timing || !end->timing || begin->recorded == 0 ||
        end->recorded == 0)
        return call.done(cudaErrorInvalidResourceHandle);
    if (begin->completed < begin->recorded || end->completed < end->recorded) return call.done(cudaErrorNotReady);
    *milliseconds = static_cast<float>(static_cast<double>(end->time_ns - begin->time_ns) / 1e6);
    return call.done(0);
}

}  // extern "C"
