#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "trtlab/core/memory.hpp"
#include "trtlab/core/wait.hpp"
#include "trtlab/cuda/device.hpp"

// CUDA's own names of its handles, so that this header needs none of CUDA's and takes what the caller has.
struct CUstream_st;
struct CUevent_st;
struct CUgraph_st;
struct CUgraphExec_st;

namespace trtlab::cuda {

using StreamHandle = CUstream_st*;  ///< cudaStream_t
using EventHandle = CUevent_st*;    ///< cudaEvent_t

/// An event as another process can open it: send it the bytes.
using IpcEventHandle = std::array<std::byte, 64>;

class Event;
class Graph;

/// A queue of work on a GPU that somebody owns. Copies, kernels and events are put into it in order.
/// Threads: CUDA's streams are thread-safe; the order of what several threads put in is theirs to see to.
class [[gnu::visibility("default")]] StreamView {
public:
    /// `handle` may be null: CUDA's default stream.
    StreamView(Device device, StreamHandle handle) : device_(std::move(device)), handle_(handle) {}

    StreamHandle handle() const noexcept { return handle_; }
    const Device& device() const noexcept { return device_; }

    /// Blocks until everything in the stream is done. Throws CudaError, also for what failed in it.
    void synchronize() const;
    /// Whether everything in the stream is done. Never blocks. Throws CudaError.
    bool done() const;
    /// What comes after this in the stream waits for `event`. Never blocks. Throws CudaError.
    void wait(const Event& event) const;
    void wait(EventHandle event) const;

    /// Puts a copy into the stream; both ends must stay until it is done. Host memory that is not pinned is read or
    /// written before this returns, as CUDA does it. Throws InvalidArgument (sizes differ), CudaError.
    void copy(const core::BufferView& destination, const core::BufferView& source) const;
    /// The same without the check, for ranges that were checked: `size_bytes` from `source` to `destination`.
    void copy_unchecked(void* destination, const void* source, std::size_t size_bytes) const;
    /// Fills with a byte.
    void fill(const core::BufferView& destination, std::uint8_t value) const;

    /// Records everything that is put into the stream from now on, rather than running it. Captures of different threads
    /// do not disturb each other. Throws CudaError.
    void begin_capture() const;
    /// Ends the recording and makes a graph of it. Throws CudaError; the stream is then usable again.
    Graph end_capture() const;
    /// Ends a recording that failed half-way. Never throws.
    void abandon_capture() const noexcept;

protected:
    Device device_;
    StreamHandle handle_ = nullptr;
};

/// A stream of one's own: work in it waits for nothing that is in CUDA's default stream.
/// Destroying a busy stream is defined: what is in it goes on.
class [[gnu::visibility("default")]] Stream final : public StreamView {
public:
    /// `priority`: lower is more urgent, 0 the usual; capped to what the device has. Throws CudaError.
    explicit Stream(const Device& device, int priority = 0);
    Stream(Stream&& other) noexcept;
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    Stream& operator=(Stream&&) = delete;
    ~Stream();

private:
    core::ForkGuard fork_;
};

/// A point in a stream, to be waited for by the host or by other streams.
class [[gnu::visibility("default")]] Event {
public:
    enum class Kind {
        plain,     ///< order only: the cheapest
        timing,    ///< `elapsed` can be asked
        blocking,  ///< `synchronize` sleeps rather than spins
        shared,    ///< order, also for other processes (`ipc_handle`)
    };
    /// Throws CudaError.
    explicit Event(const Device& device, Kind kind = Kind::plain);
    /// Another process's, which keeps it: see `ipc_handle`. Throws CudaError.
    Event(const Device& device, const IpcEventHandle& handle);
    Event(Event&& other) noexcept;
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    Event& operator=(Event&&) = delete;
    ~Event();

    EventHandle handle() const noexcept { return handle_; }
    const Device& device() const noexcept { return device_; }

    /// The point is where `stream` ends now. Throws CudaError.
    void record(const StreamView& stream) const;
    /// Whether the point was reached; true if none was recorded. Never blocks. Throws CudaError if what came before failed.
    bool done() const;
    /// The same for who must not throw, as one call of CUDA's: cudaSuccess (0), cudaErrorNotReady (600), or what failed.
    /// Leaves the thread's last error as CUDA sets it.
    int query() const noexcept;
    /// Blocks until it was reached. Throws CudaError.
    void synchronize() const;
    /// From `begin` to this one, both of kind `timing` and reached. Resolution about 0.5 us. Throws CudaError.
    std::chrono::nanoseconds elapsed_since(const Event& begin) const;
    /// Lets another process wait for an event of kind `shared`. Throws CudaError.
    IpcEventHandle ipc_handle() const;

private:
    Device device_;
    EventHandle handle_ = nullptr;
    core::ForkGuard fork_;
};

/// A recorded sequence of GPU work that is launched as a whole, with one call.
class [[gnu::visibility("default")]] Graph {
public:
    Graph(Graph&& other) noexcept;
    Graph& operator=(Graph&& other) noexcept;
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    ~Graph();

    /// Puts the graph into `stream`. Not while another launch of the same graph is under way. Throws CudaError.
    void launch(const StreamView& stream) const;
    /// Brings the graph to the device, so that its first launch costs no more than the others. Throws CudaError.
    void upload(const StreamView& stream) const;
    /// Operations in it.
    std::size_t nodes() const noexcept { return nodes_; }

private:
    friend class StreamView;
    Graph(Device device, CUgraphExec_st* executable, std::size_t nodes)
        : device_(std::move(device)), executable_(executable), nodes_(nodes) {}
    Device device_;
    CUgraphExec_st* executable_ = nullptr;
    std::size_t nodes_ = 0;
    core::ForkGuard fork_;
};

}  // namespace trtlab::cuda
