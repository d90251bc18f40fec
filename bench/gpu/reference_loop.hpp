#pragma once

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "trtlab/core/error.hpp"
#include "trtlab/core/memory.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/stream.hpp"
#include "trtlab/tensorrt/engine.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::bench {

using Clock = std::chrono::steady_clock;
using Seconds = std::chrono::duration<double>;
using Bytes = std::vector<std::byte>;

/// Streams of the bare loop, and executions of the Runner, among which each side's best is sought.
inline constexpr std::array<std::size_t, 6> kConcurrencies{1, 2, 3, 4, 6, 8};

/// Random values of any type, all of them numbers, of magnitudes that no network minds. Integers are 0 or 1.
inline Bytes random_bytes(core::DType dtype, std::size_t elements, std::mt19937_64& random) {
    Bytes bytes(elements * core::size_of(dtype));
    const auto fill = [&](auto draw) {
        auto* values = static_cast<decltype(draw())*>(static_cast<void*>(bytes.data()));
        for (std::size_t i = 0; i < elements; ++i) values[i] = draw();
    };
    // Sign and mantissa at random; the exponent so that magnitudes are from 1/16 to 2.
    switch (dtype) {
        case core::DType::float16:
            fill([&] { return static_cast<std::uint16_t>((random() & 0x83FF) | (11 + random() % 5) << 10); });
            break;
        case core::DType::bfloat16:
            fill([&] { return static_cast<std::uint16_t>((random() & 0x807F) | (123 + random() % 5) << 7); });
            break;
        case core::DType::float32:
            fill([&] { return static_cast<std::uint32_t>((random() & 0x807FFFFF) | (123 + random() % 5) << 23); });
            break;
        case core::DType::int64:
            fill([&] { return static_cast<std::int64_t>(random() & 1); });
            break;
        case core::DType::int32:
            fill([&] { return static_cast<std::int32_t>(random() & 1); });
            break;
        case core::DType::boolean:
            fill([&] { return static_cast<std::uint8_t>(random() & 1); });
            break;
        default:
            throw core::InvalidArgument("the benchmark makes no inputs of " + std::string(core::name_of(dtype)));
    }
    return bytes;
}

/// Where the loop's inputs are, and how they come to the GPU. Where they are on the host, outputs end there too.
enum class Feed {
    device,      ///< they are there: nothing is copied
    pinned,      ///< copies in the stream that computes; with a graph they are part of it
    overlapped,  ///< pinned, with a stream for each direction, and events between them, as trtexec does it
    pageable,    ///< CUDA copies from ordinary memory
    staged,      ///< the host copies from ordinary to pinned memory, then as `pinned`
};

inline const char* name_of(Feed feed) {
    constexpr const char* kNames[] = {"device", "pinned", "overlapped", "pageable", "staged"};
    return kNames[static_cast<int>(feed)];
}

/// The best that can be done with bare calls from one host thread, as trtexec does it: every stream has a context and a few
/// slots with memory of their own; the slots are enqueued ahead, so that the GPU never waits for the host, and enqueued
/// again when their event says that they are done. No pool, no future, nobody else's memory.
///
/// Threads: one at a time.
class ReferenceLoop {
public:
    struct Settings {
        std::size_t streams = 1;
        bool graph = false;
        Feed feed = Feed::device;
        std::string to_string() const {
            return std::to_string(streams) + (streams == 1 ? " stream, " : " streams, ") +
                   (graph ? "graph, " : "enqueue, ") + name_of(feed);
        }
    };

    static constexpr std::size_t kDepth = 3;  ///< slots of a stream: one computes, one waits, one is being enqueued

    /// `shapes` in the order of the engine's inputs. Contexts are made as they are needed.
    ReferenceLoop(std::shared_ptr<tensorrt::Engine> engine, std::vector<core::Shape> shapes)
        : engine_(std::move(engine)),
          device_(engine_->runtime()->device()),
          shapes_(std::move(shapes)),
          device_memory_(std::make_shared<cuda::DeviceMemory>(device_)),
          pinned_memory_(std::make_shared<cuda::PinnedMemory>(device_)) {
        for (const tensorrt::TensorInfo& tensor : engine_->tensors()) {
            if (tensor.on_host) {
                throw core::InvalidArgument("the bare loop has no shape tensors, as '" + tensor.name + "' is");
            }
        }
    }

    std::size_t inputs() const noexcept { return shapes_.size(); }
    std::size_t input_bytes() const {
        std::size_t bytes = 0;
        for (std::size_t i = 0; i < shapes_.size(); ++i) bytes += tensor_bytes(i);
        return bytes;
    }

    /// Requests a second, of `time`'s worth of requests.
    double throughput(const Settings& settings, Seconds time) {
        prepare(settings);
        const auto begin = Clock::now();
        const auto until = begin + std::chrono::duration_cast<Clock::duration>(time);
        std::uint64_t count = 0;
        for (auto now = begin; now < until; now = Clock::now()) {
            for (std::size_t i = 0; i < settings.streams; ++i) {
                Lane& lane = *lanes_[i];
                Slot& slot = lane.slots[lane.next];
                const int status = slot.done.query();
                if (status == kNotReady) continue;
                device_.library()->check(status, "the bare loop's work", device_.ordinal());
                enqueue(lane, slot, settings);
                lane.next = (lane.next + 1) % kDepth;
                ++count;
            }
        }
        for (std::size_t i = 0; i < settings.streams; ++i) synchronize(*lanes_[i]);
        return static_cast<double>(count) / Seconds(Clock::now() - begin).count();
    }

    /// One request at a time: launch, wait for the stream. Nanoseconds each.
    std::vector<double> latencies(const Settings& settings, std::size_t requests) {
        prepare(settings);
        Lane& lane = *lanes_.front();
        Slot& slot = lane.slots.front();
        std::vector<double> samples;
        samples.reserve(requests);
        for (std::size_t i = 0; i < requests; ++i) {
            const auto begin = Clock::now();
            launch(lane, slot, settings);
            lane.stream.synchronize();
            samples.push_back(std::chrono::duration<double, std::nano>(Clock::now() - begin).count());
        }
        return samples;
    }

    /// What it computes of these inputs, into memory that was poisoned before.
    std::vector<Bytes> answer(const std::vector<Bytes>& inputs, bool graph) {
        const Settings settings{1, graph, Feed::device};
        prepare(settings);
        Lane& lane = *lanes_.front();
        Slot& slot = lane.slots.front();
        std::vector<Bytes> outputs;
        for (std::size_t i = 0; i < slot.device.size(); ++i) {
            if (i < inputs.size()) {
                copy(lane.stream, slot.device[i].data(), inputs[i].data(), inputs[i].size());
            } else {
                lane.stream.fill(slot.device[i].view(), 0xFF);
            }
        }
        launch(lane, slot, settings);
        for (std::size_t i = inputs.size(); i < slot.device.size(); ++i) {
            // Its shape's bytes: TensorRT asks for room beyond them.
            outputs.emplace_back(lane.context->shape(i).elements() * core::size_of(engine_->tensors()[i].dtype));
            copy(lane.stream, outputs.back().data(), slot.device[i].data(), outputs.back().size());
        }
        lane.stream.synchronize();
        return outputs;
    }

    /// The fastest of `kConcurrencies` streams x graph or not x `feeds`, each tried for `time` and told to `out`.
    Settings best(const std::vector<Feed>& feeds, Seconds time, std::FILE* out, const char* title) {
        Settings best;
        double fastest = 0;
        for (const Feed feed : feeds) {
            for (const std::size_t streams : kConcurrencies) {
                for (const bool graph : {false, true}) {
                    const Settings settings{streams, graph, feed};
                    const double rate = throughput(settings, time);
                    std::fprintf(out, "    %s, bare loop, %-34s %10.1f requests/s\n", title,
                                 settings.to_string().c_str(), rate);
                    std::fflush(out);
                    if (rate > fastest) {
                        fastest = rate;
                        best = settings;
                    }
                }
            }
        }
        return best;
    }

private:
    static constexpr int kNotReady = 600;  // cudaErrorNotReady

    struct Slot {
        explicit Slot(const cuda::Device& device) : done(device), fed(device), computed(device) {}
        std::vector<core::Buffer> device;  // a block for each tensor, inputs first
        std::vector<core::Buffer> pinned;  // the same on the host
        std::vector<Bytes> pageable;       // of the inputs
        std::optional<cuda::Graph> compute;
        std::optional<cuda::Graph> whole;  // with the copies
        cuda::Event done, fed, computed;
    };

    struct Lane {
        explicit Lane(const cuda::Device& device) : stream(device), in(device), out(device) {}
        ~Lane() { bench_wait(stream), bench_wait(in), bench_wait(out); }
        // What follows in the destructor frees memory that copies and kernels may still be using.
        static void bench_wait(const cuda::Stream& stream) noexcept {
            try {
                stream.synchronize();
            } catch (const core::Error& error) {
                core::log(error.what());
            }
        }
        std::unique_ptr<tensorrt::ExecutionContext> context;
        core::Buffer activations;
        std::vector<Slot> slots;
        std::size_t next = 0;
        const Slot* bound = nullptr;  // whose addresses the context has
        cuda::Stream stream, in, out;
    };

    std::size_t tensor_bytes(std::size_t input) const {
        return core::checked_mul(shapes_[input].elements(), core::size_of(engine_->tensors()[input].dtype));
    }

    static void copy(const cuda::StreamView& stream, void* to, const void* from, std::size_t size_bytes) {
        stream.copy_unchecked(to, from, size_bytes);
    }

    void add_lane() {
        auto lane = std::make_unique<Lane>(device_);
        lane->context = engine_->create_context();
        for (std::size_t i = 0; i < shapes_.size(); ++i) lane->context->set_input_shape(i, shapes_[i]);
        lane->context->infer_shapes();
        if (const std::size_t bytes = lane->context->activation_bytes(); bytes > 0) {
            lane->activations = core::Buffer(device_memory_, bytes);
            lane->context->set_activation_memory(lane->activations.view());
        }
        for (std::size_t k = 0; k < kDepth; ++k) {
            Slot& slot = lane->slots.emplace_back(device_);
            for (std::size_t i = 0; i < engine_->tensors().size(); ++i) {
                const std::size_t bytes = i < shapes_.size() ? tensor_bytes(i) : lane->context->max_output_bytes(i);
                slot.device.emplace_back(device_memory_, bytes);
                slot.pinned.emplace_back(pinned_memory_, bytes);
                if (i >= shapes_.size()) continue;
                slot.pageable.push_back(random_bytes(engine_->tensors()[i].dtype, shapes_[i].elements(), random_));
                std::memcpy(slot.pinned[i].data(), slot.pageable[i].data(), bytes);
                copy(lane->stream, slot.device[i].data(), slot.pinned[i].data(), bytes);
            }
        }
        lane->stream.synchronize();
        // TensorRT wants one run with the shapes before they are captured; TensorRT-RTX compiles in it.
        bind(*lane, lane->slots.front());
        lane->context->enqueue(lane->stream);
        lane->stream.synchronize();
        lanes_.push_back(std::move(lane));
    }

    void bind(Lane& lane, const Slot& slot) {
        if (lane.bound == &slot) return;
        for (std::size_t i = 0; i < slot.device.size(); ++i) lane.context->set_address(i, slot.device[i].data());
        lane.bound = &slot;
    }

    /// Contexts, graphs, and a short run, so that nothing is done for the first time while it is measured.
    void prepare(const Settings& settings) {
        while (lanes_.size() < settings.streams) add_lane();
        for (std::size_t i = 0; i < settings.streams; ++i) {
            Lane& lane = *lanes_[i];
            synchronize(lane);
            lane.next = 0;
            for (Slot& slot : lane.slots) {
                if (settings.graph) capture(lane, slot, settings.feed);
                enqueue(lane, slot, settings);
            }
            synchronize(lane);
        }
    }

    void capture(Lane& lane, Slot& slot, Feed feed) {
        const bool copies = feed == Feed::pinned || feed == Feed::staged;
        std::optional<cuda::Graph>& graph = copies ? slot.whole : slot.compute;
        if (graph) return;
        bind(lane, slot);
        lane.stream.begin_capture();
        try {
            if (copies) copy_in(lane.stream, slot);
            lane.context->enqueue(lane.stream);
            if (copies) copy_out(lane.stream, slot);
            graph.emplace(lane.stream.end_capture());
        } catch (...) {
            lane.stream.abandon_capture();
            throw;
        }
        graph->upload(lane.stream);
    }

    void copy_in(const cuda::StreamView& stream, const Slot& slot) const {
        for (std::size_t i = 0; i < shapes_.size(); ++i) {
            copy(stream, slot.device[i].data(), slot.pinned[i].data(), slot.device[i].size_bytes());
        }
    }

    void copy_out(const cuda::StreamView& stream, const Slot& slot) const {
        for (std::size_t i = shapes_.size(); i < slot.device.size(); ++i) {
            copy(stream, slot.pinned[i].data(), slot.device[i].data(), slot.device[i].size_bytes());
        }
    }

    void compute(Lane& lane, Slot& slot, bool graph) {
        if (graph) return slot.compute->launch(lane.stream);
        bind(lane, slot);
        lane.context->enqueue(lane.stream);
    }

    /// All of a request, ending in the stream that is returned.
    const cuda::StreamView& launch(Lane& lane, Slot& slot, const Settings& settings) {
        switch (settings.feed) {
            case Feed::device:
                compute(lane, slot, settings.graph);
                break;
            case Feed::staged:
                for (std::size_t i = 0; i < shapes_.size(); ++i) {
                    std::memcpy(slot.pinned[i].data(), slot.pageable[i].data(), slot.pageable[i].size());
                }
                [[fallthrough]];
            case Feed::pinned:
                if (settings.graph) {
                    slot.whole->launch(lane.stream);
                } else {
                    copy_in(lane.stream, slot);
                    compute(lane, slot, false);
                    copy_out(lane.stream, slot);
                }
                break;
            case Feed::pageable:
                for (std::size_t i = 0; i < shapes_.size(); ++i) {
                    copy(lane.stream, slot.device[i].data(), slot.pageable[i].data(), slot.pageable[i].size());
                }
                compute(lane, slot, settings.graph);
                copy_out(lane.stream, slot);
                break;
            case Feed::overlapped:
                copy_in(lane.in, slot);
                slot.fed.record(lane.in);
                lane.stream.wait(slot.fed);
                compute(lane, slot, settings.graph);
                slot.computed.record(lane.stream);
                lane.out.wait(slot.computed);
                copy_out(lane.out, slot);
                return lane.out;
        }
        return lane.stream;
    }

    void enqueue(Lane& lane, Slot& slot, const Settings& settings) { slot.done.record(launch(lane, slot, settings)); }

    static void synchronize(const Lane& lane) {
        lane.in.synchronize();
        lane.stream.synchronize();
        lane.out.synchronize();
    }

    const std::shared_ptr<tensorrt::Engine> engine_;
    const cuda::Device device_;
    const std::vector<core::Shape> shapes_;
    const std::shared_ptr<core::MemoryResource> device_memory_, pinned_memory_;
    std::mt19937_64 random_{std::random_device{}()};
    std::vector<std::unique_ptr<Lane>> lanes_;
};

/// Bytes a second from pinned memory to the GPU, in copies of `chunk_bytes`: what the bus gives, whoever asks.
inline double bus_bytes_per_second(const cuda::Device& device, std::size_t chunk_bytes, Seconds time) {
    const auto pinned = std::make_shared<cuda::PinnedMemory>(device);
    const auto memory = std::make_shared<cuda::DeviceMemory>(device);
    const std::size_t chunks = std::max<std::size_t>(1, (std::size_t{64} << 20) / chunk_bytes);
    const core::Buffer host(pinned, chunks * chunk_bytes), there(memory, chunks * chunk_bytes);
    std::memset(host.data(), 1, host.size_bytes());
    const cuda::Stream stream(device);
    const auto all = [&] {
        for (std::size_t i = 0; i < chunks; ++i) {
            stream.copy_unchecked(static_cast<std::byte*>(there.data()) + i * chunk_bytes,
                                  static_cast<const std::byte*>(host.data()) + i * chunk_bytes, chunk_bytes);
        }
        stream.synchronize();
    };
    all();
    std::size_t rounds = 0;
    const auto begin = Clock::now();
    while (Seconds(Clock::now() - begin) < time) {
        all();
        ++rounds;
    }
    return static_cast<double>(rounds * chunks * chunk_bytes) / Seconds(Clock::now() - begin).count();
}

}  // namespace trtlab::bench
