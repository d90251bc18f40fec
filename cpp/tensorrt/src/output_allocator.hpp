#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "call.hpp"
#include "interfaces.hpp"
#include "trtlab/tensorrt/execution_context.hpp"

namespace trtlab::tensorrt {

/// Shows TensorRT an `OutputMemory` as its IOutputAllocator, in the form that the library expects.
class OutputAllocator {
public:
    OutputAllocator(std::string tensor, Log& log) : tensor_(std::move(tensor)), log_(log), trt_(*this), rtx_(*this) {}
    OutputAllocator(const OutputAllocator&) = delete;
    OutputAllocator& operator=(const OutputAllocator&) = delete;

    void* interface(Generation generation) noexcept {
        return abi::is_rtx(generation) ? static_cast<void*>(&rtx_) : static_cast<void*>(&trt_);
    }
    /// What TensorRT asks for goes to `memory`, for work in `stream` where TensorRT doesn't say in which.
    void set_memory(OutputMemory* memory) noexcept { memory_ = memory; }
    void set_stream(cuda::StreamHandle stream) noexcept { stream_ = stream; }

private:
    void* reserve(std::uint64_t size, std::uint64_t alignment, cuda::StreamHandle stream) noexcept;
    void shape_known(const abi::Dims& dims) noexcept;

    class Trt final : public abi::OutputAllocator {
    public:
        explicit Trt(tensorrt::OutputAllocator& owner) : owner_(owner) {}
        void* reallocateOutput(const char*, void*, std::uint64_t size, std::uint64_t alignment) noexcept override {
            return owner_.reserve(size, alignment, owner_.stream_);
        }
        void* reallocateOutputAsync(const char*, void*, std::uint64_t size, std::uint64_t alignment,
                                    abi::Stream stream) noexcept override {
            return owner_.reserve(size, alignment, stream);
        }
        void notifyShape(const char*, const abi::Dims& dims) noexcept override { owner_.shape_known(dims); }

    private:
        tensorrt::OutputAllocator& owner_;
    };
    class Rtx final : public abi::RtxOutputAllocator {
    public:
        explicit Rtx(tensorrt::OutputAllocator& owner) : owner_(owner) {}
        void* reallocateOutputAsync(const char*, void*, std::uint64_t size, std::uint64_t alignment,
                                    abi::Stream stream) noexcept override {
            return owner_.reserve(size, alignment, stream);
        }
        void notifyShape(const char*, const abi::Dims& dims) noexcept override { owner_.shape_known(dims); }

    private:
        tensorrt::OutputAllocator& owner_;
    };

    const std::string tensor_;
    Log& log_;
    OutputMemory* memory_ = nullptr;
    cuda::StreamHandle stream_ = nullptr;
    Trt trt_;
    Rtx rtx_;
};

/// Collects what TensorRT's profiler tells, in the form that the library expects.
class Profiler {
public:
    Profiler() : old_(*this), versioned_(*this) {}
    Profiler(const Profiler&) = delete;
    Profiler& operator=(const Profiler&) = delete;

    void* interface(Generation generation) noexcept {
        return abi::versioned(generation) ? static_cast<void*>(&versioned_) : static_cast<void*>(&old_);
    }
    std::vector<LayerTime> take() noexcept { return std::exchange(layers_, {}); }

private:
    void add(const char* layer, float milliseconds) noexcept;

    template <class Interface>
    class As final : public Interface {
    public:
        explicit As(Profiler& owner) : owner_(owner) {}
        void reportLayerTime(const char* layer, float milliseconds) noexcept override {
            owner_.add(layer, milliseconds);
        }

    private:
        Profiler& owner_;
    };

    std::vector<LayerTime> layers_;
    As<abi::OldProfiler> old_;
    As<abi::VersionedProfiler> versioned_;
};

}  // namespace trtlab::tensorrt
