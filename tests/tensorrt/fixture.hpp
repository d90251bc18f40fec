#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engine_state.hpp"
#include "fake_cuda.hpp"
#include "fake_nvinfer.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/memory.hpp"
#include "trtlab/cuda/stream.hpp"
#include "trtlab/tensorrt/engine.hpp"
#include "trtlab/tensorrt/execution_context.hpp"
#include "trtlab/tensorrt/library.hpp"
#include "trtlab/tensorrt/runtime.hpp"

namespace trtlab::tensorrt::test {

/// y = 2 x, float32, one to eight rows of four in two profiles.
inline constexpr std::string_view kTwice = R"(trtlab fake plan 1
name twice
layer double
layer cast
input x float32 -1x4
output y float32 -1x4 = double x
profile x 1x4 2x4 4x4
profile x 3x4 6x4 8x4
weights 1024
weights 512
activation 64
aux_streams 1
end
)";

/// The indices of what is not zero in up to 16 numbers.
inline constexpr std::string_view kNonzero = R"(trtlab fake plan 1
name nonzero
input x float32 -1
output y int64 -1 = nonzero x
profile x 1 8 16
end
)";

/// y has the shape that s holds, and 2 * x[0] everywhere.
inline constexpr std::string_view kFill = R"(trtlab fake plan 1
name fill
input x float32 1
input s int32 2 shape
output y float32 -1x-1 = fill x s
values s 1x1 2x3 4x4
end
)";

inline std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

inline fake_nvinfer::Control& fake() {
    static fake_nvinfer::Control& control = fake_nvinfer::control(TRTLAB_FAKE_NVINFER);
    return control;
}
inline const FakeCuda& fake_cuda() {
    static const FakeCuda fake(TRTLAB_FAKE_CUDART);
    return fake;
}
inline const std::shared_ptr<const cuda::Library>& cuda_library() {
    static const auto library = cuda::Library::open({.path = TRTLAB_FAKE_CUDART, .directories = {}});
    return library;
}

/// What the refusal says; fails the test if there is none of this type.
template <class Error, class Function>
std::string message_of(Function&& function) {
    try {
        function();
    } catch (const Error& error) {
        return error.what();
    } catch (const std::exception& error) {
        ADD_FAILURE() << "another exception: " << error.what();
        return {};
    }
    ADD_FAILURE() << "no exception";
    return {};
}

/// Collects what goes to core::log for the length of a scope.
class LogCapture {
public:
    LogCapture() {
        core::set_log_sink([this](std::string_view line) {
            const std::lock_guard lock(mutex_);
            text_ += std::string(line) + "\n";
        });
    }
    ~LogCapture() { core::set_log_sink({}); }
    std::string text() const {
        const std::lock_guard lock(mutex_);
        return text_;
    }

private:
    mutable std::mutex mutex_;
    std::string text_;
};

/// Memory of the fake GPU that fails when it is told to, and knows what it has given.
class CountedMemory final : public core::MemoryResource {
public:
    explicit CountedMemory(const cuda::Device& device) : memory_(device) {}
    core::Device device() const noexcept override { return memory_.device(); }
    std::string name() const override { return "counted memory"; }

    std::size_t bytes = 0;  ///< not given back
    std::size_t calls = 0;
    std::size_t limit = SIZE_MAX;  ///< of `bytes`
    std::size_t alignment = 0;     ///< the least that was asked for

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment_) override {
        if (bytes + size_bytes > limit) throw core::OutOfMemory("counted memory has too little");
        void* block = memory_.allocate(size_bytes, alignment_);
        bytes += size_bytes;
        ++calls;
        alignment = alignment == 0 ? alignment_ : std::min(alignment, alignment_);
        return block;
    }
    void do_deallocate(void* block, std::size_t size_bytes, std::size_t alignment_) noexcept override {
        bytes -= size_bytes;
        memory_.deallocate(block, size_bytes, alignment_);
    }

private:
    cuda::DeviceMemory memory_;
};

/// A device buffer with numbers in it.
template <class T>
class Numbers {
public:
    Numbers(const cuda::Device& device, std::vector<T> values)
        : device_(device),
          host_(std::move(values)),
          buffer_(std::make_shared<cuda::DeviceMemory>(device), host_.size() * sizeof(T)) {
        cuda::StreamView(device_, nullptr).copy_unchecked(buffer_.data(), host_.data(), host_.size() * sizeof(T));
        cuda::StreamView(device_, nullptr).synchronize();
    }
    void* data() const { return buffer_.data(); }
    std::vector<T> read() {
        cuda::StreamView(device_, nullptr).copy_unchecked(host_.data(), buffer_.data(), host_.size() * sizeof(T));
        cuda::StreamView(device_, nullptr).synchronize();
        return host_;
    }

private:
    cuda::Device device_;
    std::vector<T> host_;
    core::Buffer buffer_;
};

/// The ICudaEngine* inside of an engine, as somebody with NVIDIA's headers would have it.
inline void* adoptable(const Engine& engine) { return engine.state()->handle; }

/// Everything against the fake, for a release of each generation; ends with nothing left over and no rule broken.
class Fake : public testing::TestWithParam<int> {
protected:
    Fake() {
        fake_cuda().reset();
        fake().reset();
        fake().version = GetParam();
        fake().use_cudart(TRTLAB_FAKE_CUDART);
    }
    ~Fake() override {
        EXPECT_THAT(fake().violations(), testing::IsEmpty());
        EXPECT_EQ(fake().contexts, 0);
        EXPECT_EQ(fake().engines, 0);
        EXPECT_EQ(fake().runtimes, 0);
        EXPECT_EQ(fake().kernel_caches, 0);
        EXPECT_EQ(fake_cuda().live_objects(), 0U);
        EXPECT_EQ(fake_cuda().violations(), 0U);
    }

    bool rtx() const { return GetParam() < 100000; }
    cuda::Device device() const { return cuda::Device(cuda_library(), 0); }
    std::shared_ptr<const Library> library() const { return Library::open({.path = TRTLAB_FAKE_NVINFER}); }
    std::shared_ptr<Runtime> runtime(const Runtime::Options& options = {}) const {
        return Runtime::create(library(), device(), options);
    }
    std::shared_ptr<Engine> engine(std::string_view plan = kTwice) const {
        return runtime()->deserialize(bytes_of(plan));
    }
};

inline std::string release_name(const testing::TestParamInfo<int>& info) {
    return "v" + std::to_string(info.param / 10000) + "_" + std::to_string(info.param / 100 % 100) + "_" +
           std::to_string(info.param % 100);
}

/// One release of each generation; 10.0, which lacks what came later; and 11.4, which appended to 11.
inline auto releases() { return testing::Values(100000, 101601, 110000, 110400, 10400, 10500, 10701); }

}  // namespace trtlab::tensorrt::test
