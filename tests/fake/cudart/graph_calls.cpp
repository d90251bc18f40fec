#include "simulation.hpp"

extern "C" {

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode mode) {
    fake::Call call("cudaStreamBeginCapture");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (handle == nullptr) return call.done(cudaErrorStreamCaptureUnsupported);
    if (stream->capture != nullptr) return call.done(cudaErrorIllegalState);
    stream->capture = std::make_shared<fake::Capture>();
    stream->capture->origin = stream.get();
    stream->capture->thread = fake::this_thread_number();
    stream->capture->relaxed = mode == cudaStreamCaptureModeRelaxed;
    return call.done(0);
}

cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph_handle) {
    std::shared_ptr<fake::Capture> capture;  // goes after the lock does: what it holds may be a test's
    fake::Call call("cudaStreamEndCapture");
    if (graph_handle != nullptr) *graph_handle = nullptr;
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    capture = stream->capture;
    if (capture == nullptr) return call.done(cudaErrorIllegalState);
    if (capture->origin != stream.get()) return call.done(cudaErrorStreamCaptureUnmatched);
    if (!capture->relaxed && capture->thread != fake::this_thread_number())
        return call.done(cudaErrorStreamCaptureWrongThread);
    bool unjoined = false;
    for (const auto& other : call.world_.streams) {
        if (other->capture != capture) continue;
        if (const auto joined = capture->joined.find(other.get()); joined != capture->joined.end())
            unjoined |= joined->second;
        other->capture.reset();
    }
    int code = call.failed() ? static_cast<int>(call.result()) : 0;
    if (code == 0 && capture->broken) code = cudaErrorStreamCaptureInvalidated;
    if (code == 0 && unjoined) code = cudaErrorStreamCaptureUnjoined;
    if (code == 0) {
        auto graph = std::make_shared<fake::Graph>();
        graph->works = capture->works;
        *graph_handle = reinterpret_cast<cudaGraph_t>(graph.get());
        call.world_.graphs.emplace(graph.get(), std::move(graph));
    }
    return call.done(code);
}

cudaError_t cudaStreamIsCapturing(cudaStream_t handle, cudaStreamCaptureStatus* status) {
    fake::Call call("cudaStreamIsCapturing");
    if (call.failed()) return call.result();
    const auto stream = call.world_.find_stream(handle);
    if (stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    *status = stream->capture == nullptr ? cudaStreamCaptureStatusNone
              : stream->capture->broken  ? cudaStreamCaptureStatusInvalidated
                                         : cudaStreamCaptureStatusActive;
    return call.done(0);
}

cudaError_t cudaGraphGetNodes(cudaGraph_t handle, cudaGraphNode_t* nodes, std::size_t* count) {
    fake::Call call("cudaGraphGetNodes");
    if (call.failed()) return call.result();
    const auto found = call.world_.graphs.find(handle);
    if (found == call.world_.graphs.end()) return call.done(cudaErrorInvalidValue);
    const fake::Works& works = found->second->works;
    if (nodes != nullptr) {
        for (std::size_t i = 0; i < *count; ++i)
            nodes[i] = i < works.size() ? reinterpret_cast<cudaGraphNode_t>(works[i].get()) : nullptr;
    }
    *count = works.size();
    return call.done(0);
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable_handle, cudaGraph_t handle, unsigned long long) {
    fake::Call call("cudaGraphInstantiate");
    if (call.failed()) return call.result();
    const auto found = call.world_.graphs.find(handle);
    if (found == call.world_.graphs.end()) return call.done(cudaErrorInvalidValue);
    auto executable = std::make_shared<fake::Executable>();
    executable->works = found->second->works;
    executable->device = call.world_.thread().device;
    *executable_handle = reinterpret_cast<cudaGraphExec_t>(executable.get());
    call.world_.executables.emplace(executable.get(), std::move(executable));
    return call.done(0);
}

cudaError_t cudaGraphDestroy(cudaGraph_t handle) {
    fake::Call call("cudaGraphDestroy");
    auto graph = call.world_.graphs.extract(handle);
    const cudaError_t result = graph.empty() ? call.done(cudaErrorInvalidValue) : call.result();
    call.lock.unlock();  // before the graph goes, with what a test put into it
    return result;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t handle) {
    fake::Call call("cudaGraphExecDestroy");
    auto executable = call.world_.executables.extract(handle);
    const cudaError_t result = executable.empty() ? call.done(cudaErrorInvalidValue) : call.result();
    call.lock.unlock();
    return result;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t handle, cudaStream_t stream_handle) {
    fake::Call call("cudaGraphLaunch");
    if (call.failed()) return call.result();
    const auto found = call.world_.executables.find(handle);
    const auto stream = call.world_.find_stream(stream_handle);
    if (found == call.world_.executables.end() || stream == nullptr) return call.done(cudaErrorInvalidResourceHandle);
    if (stream->capture != nullptr) {
        stream->capture->broken = true;
        return call.done(cudaErrorStreamCaptureUnsupported);
    }
    fake::Entry entry;
    entry.works = found->second->works;
    return call.done(call.world_.enqueue(call.lock, stream, std::move(entry)));
}

cudaError_t cudaGraphUpload(cudaGraphExec_t handle, cudaStream_t stream_handle) {
    fake::Call call("cudaGraphUpload");
    if (call.failed()) return call.result();
    const bool known = call.world_.executables.contains(handle) && call.world_.find_stream(stream_handle) != nullptr;
    return call.done(known ? cudaSuccess : cudaErrorInvalidResourceHandle);
}

}  // extern "C"
