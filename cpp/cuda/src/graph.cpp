#include <utility>

#include "api.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::cuda {
namespace {

/// What was recorded: needed only to make the executable graph.
class Recording {
public:
    Recording(const Library::Api& api, cudaGraph_t graph) noexcept : api_(api), graph_(graph) {}
    ~Recording() {
        if (graph_ != nullptr) (void)api_.GraphDestroy(graph_);
    }
    Recording(const Recording&) = delete;
    Recording& operator=(const Recording&) = delete;

private:
    const Library::Api& api_;
    cudaGraph_t graph_;
};

}  // namespace

void StreamView::begin_capture() const {
    const DeviceGuard guard(device_);
    // Thread-local: other threads may allocate, and this one gets an error for what would break the recording.
    device_.library()->check(device_.library()->api().StreamBeginCapture(handle_, cudaStreamCaptureModeThreadLocal),
                             "cudaStreamBeginCapture", device_.ordinal());
}

Graph StreamView::end_capture() const {
    const DeviceGuard guard(device_);
    const Library& library = *device_.library();
    const Library::Api& api = library.api();
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = api.StreamEndCapture(handle_, &graph);
    const Recording recording(api, graph);
    library.check(ended, "cudaStreamEndCapture", device_.ordinal());
    std::size_t nodes = 0;
    library.check(api.GraphGetNodes(graph, nullptr, &nodes), "cudaGraphGetNodes", device_.ordinal());
    cudaGraphExec_t executable = nullptr;
    library.check(api.GraphInstantiate(&executable, graph, 0), "cudaGraphInstantiate", device_.ordinal());
    return Graph(device_, executable, nodes);
}

void StreamView::abandon_capture() const noexcept {
    call_quietly(device_, "cudaStreamEndCapture", [&](const Library::Api& api) {
        cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
        if (api.StreamIsCapturing(handle_, &status) != cudaSuccess || status == cudaStreamCaptureStatusNone) {
            (void)api.GetLastError();
            return cudaSuccess;
        }
        cudaGraph_t graph = nullptr;
        const bool failed = api.StreamEndCapture(handle_, &graph) != cudaSuccess;
        const Recording recording(api, graph);
        // That it failed is why it is abandoned.
        if (failed) (void)api.GetLastError();
        return cudaSuccess;
    });
}

Graph::Graph(Graph&& other) noexcept
    : device_(other.device_),
      executable_(std::exchange(other.executable_, nullptr)),
      nodes_(std::exchange(other.nodes_, 0)),
      fork_(other.fork_) {}

Graph& Graph::operator=(Graph&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(executable_, other.executable_);
    std::swap(nodes_, other.nodes_);
    std::swap(fork_, other.fork_);
    return *this;
}

Graph::~Graph() {
    if (executable_ == nullptr || fork_.forked()) return;
    call_quietly(device_, "cudaGraphExecDestroy",
                 [&](const Library::Api& api) { return api.GraphExecDestroy(executable_); });
}

void Graph::launch(const StreamView& stream) const {
    const DeviceGuard guard(device_);
    device_.library()->check(device_.library()->api().GraphLaunch(executable_, stream.handle()), "cudaGraphLaunch",
                             device_.ordinal());
}

void Graph::upload(const StreamView& stream) const {
    const DeviceGuard guard(device_);
    device_.library()->check(device_.library()->api().GraphUpload(executable_, stream.handle()), "cudaGraphUpload",
                             device_.ordinal());
}

}  // namespace trtlab::cuda
