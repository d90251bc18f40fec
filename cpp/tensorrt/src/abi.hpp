#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>

#include "trtlab/tensorrt/library.hpp"

// Everything that this project knows of TensorRT's binary interface (x86-64, Itanium C++ ABI) and that its headers would
// say: slots, numbers, layouts. Nothing else knows any. tests/python/test_tensorrt_slots.py compares this file with the
// verified facts in tests/tensorrt/*.json; docs/adding-a-tensorrt-generation.md says how to add a column.

struct CUstream_st;
struct CUevent_st;

namespace trtlab::tensorrt::abi {

using Stream = CUstream_st*;
using Event = CUevent_st*;

struct Dims {
    static constexpr std::int32_t kMax = 8;
    std::int32_t nbDims = 0;
    std::int64_t d[kMax] = {};
};
static_assert(sizeof(Dims) == 72 && offsetof(Dims, d) == 8);

struct InterfaceInfo {
    const char* kind;
    std::int32_t major;
    std::int32_t minor;
};
static_assert(sizeof(InterfaceInfo) == 16 && offsetof(InterfaceInfo, major) == 8 &&
              offsetof(InterfaceInfo, minor) == 12);

// clang-format off
enum class DataType : std::int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5, kFP8 = 6, kBF16 = 7, kINT64 = 8, kINT4 = 9, kFP4 = 10, kE8M0 = 11 };
enum class TensorIOMode : std::int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class TensorLocation : std::int32_t { kDEVICE = 0, kHOST = 1 };
enum class OptProfileSelector : std::int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : std::int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };
enum class LayerInformationFormat : std::int32_t { kONELINE = 0, kJSON = 1 };
enum class APILanguage : std::int32_t { kCPP = 0, kPYTHON = 1 };
enum class EngineValidity : std::int32_t { VALID = 0, SUBOPTIMAL = 1, INVALID = 2 };
enum class EngineInvalidityDiagnostics : std::int32_t { VERSION_MISMATCH = 1, UNSUPPORTED_CC = 2, OLD_CUDA_DRIVER = 4, OLD_CUDA_RUNTIME = 8, INSUFFICIENT_GPU_MEMORY = 16, MALFORMED_ENGINE = 32, CUDA_ERROR = 64 };
// clang-format on

/// `nvinfer1::TensorFormat::kLINEAR`; the other formats matter only in that they are not this one.
inline constexpr std::int32_t kLinearFormat = 0;

/// What the library hands out: two pointers. Methods are called on `impl`; the object's own table holds nothing but its
/// destructors.
struct Object {
    void (*const* vtable)(void*);
    void* impl;
};
struct IRuntime : Object {};
struct ICudaEngine : Object {};
struct IExecutionContext : Object {};
struct IHostMemory : Object {};
struct IRuntimeConfig : Object {};
struct IRuntimeCache : Object {};
struct IEngineInspector : Object {};

/// A place in a table of virtual functions; -1 where a generation lacks the method.
struct Slot {
    constexpr Slot(int index_, int since_ = 0) : index(index_), since(since_) {}
    int index;
    int since;  ///< the first release that has it, in the numbers of getInferLibVersion
};
constexpr Slot at(int index, int since) { return {index, since}; }

template <class Of, class Signature>
struct Method {
    const char* name;
    std::array<Slot, 4> slots;  ///< in the order of `Generation`
};

// The table. Columns: method, then TRT 10, TRT 11, RTX 1.4, RTX 1.7 (slot, -1, or at(slot, first release)), signature.
// clang-format off
#define TRTLAB_TENSORRT_VRuntime(METHOD)                                                                             \
    METHOD(deserializeCudaEngine, 3, 3, 3, 3, ICudaEngine*(const void*, std::size_t))                                \
    METHOD(setGpuAllocator, 8, 7, 8, 7, void(void*))                                                                 \
    METHOD(setMaxThreads, 12, 11, 12, 11, bool(std::int32_t))                                                        \
    METHOD(getMaxThreads, 13, 12, 13, 12, std::int32_t())                                                            \
    METHOD(setEngineHostCodeAllowed, 21, 20, 21, 20, void(bool))                                                     \
    METHOD(getEngineHeaderSize, -1, -1, 24, 23, std::int64_t())                                                      \
    METHOD(getEngineValidity, -1, -1, 25, 24, EngineValidity(const void*, std::int64_t, std::uint64_t*))

#define TRTLAB_TENSORRT_VCudaEngine(METHOD)                                                                          \
    METHOD(getNbLayers, 3, 3, 3, 3, std::int32_t())                                                                  \
    METHOD(serialize, 4, 4, 4, 4, IHostMemory*())                                                                    \
    METHOD(createExecutionContext, 5, 5, 5, 5, IExecutionContext*(ExecutionContextAllocationStrategy))               \
    METHOD(getDeviceMemorySize, 7, -1, -1, -1, std::size_t())                                                        \
    METHOD(isRefittable, 8, 6, 6, 6, bool())                                                                         \
    METHOD(getName, 9, 7, 7, 7, const char*())                                                                       \
    METHOD(getNbOptimizationProfiles, 10, 8, 8, 8, std::int32_t())                                                   \
    METHOD(createEngineInspector, 18, 14, 16, 14, IEngineInspector*())                                               \
    METHOD(getTensorShape, 19, 15, 17, 15, Dims(const char*))                                                        \
    METHOD(getTensorDataType, 20, 16, 18, 16, DataType(const char*))                                                 \
    METHOD(getTensorLocation, 21, 17, 19, 17, TensorLocation(const char*))                                           \
    METHOD(isShapeInferenceIO, 22, 18, 20, 18, bool(const char*))                                                    \
    METHOD(getTensorIOMode, 23, 19, 21, 19, TensorIOMode(const char*))                                               \
    METHOD(getProfileShape, 29, 25, 27, 25, Dims(const char*, std::int32_t, OptProfileSelector))                     \
    METHOD(getNbIOTensors, 30, 26, 28, 26, std::int32_t())                                                           \
    METHOD(getIOTensorName, 31, 27, 29, 27, const char*(std::int32_t))                                               \
    METHOD(getNbAuxStreams, 33, 29, 31, 29, std::int32_t())                                                          \
    METHOD(getTensorFormatV2, 36, 32, 34, 32, std::int32_t(const char*, std::int32_t))                               \
    METHOD(getTensorFormatDescV2, 37, 33, 35, 33, const char*(const char*, std::int32_t))                            \
    METHOD(getTensorVectorizedDimV2, 38, 34, 36, 34, std::int32_t(const char*, std::int32_t))                        \
    METHOD(getDeviceMemorySizeForProfile, 41, -1, 39, -1, std::size_t(std::int32_t))                                 \
    METHOD(getStreamableWeightsSize, 46, 38, 44, 38, std::int64_t())                                                 \
    METHOD(setWeightStreamingBudgetV2, at(48, 100100), 40, 46, 40, bool(std::int64_t))                               \
    METHOD(getWeightStreamingBudgetV2, at(49, 100100), 41, 47, 41, std::int64_t())                                   \
    METHOD(getWeightStreamingAutomaticBudget, at(50, 100100), 42, 48, 42, std::int64_t())                            \
    METHOD(getDeviceMemorySizeV2, at(52, 100100), 44, 50, 44, std::int64_t())                                        \
    METHOD(getDeviceMemorySizeForProfileV2, at(53, 100100), 45, 51, 45, std::int64_t(std::int32_t))                  \
    METHOD(getProfileTensorValuesV2, at(54, 101100), 46, 52, 46,                                                     \
           const std::int64_t*(const char*, std::int32_t, OptProfileSelector))                                       \
    METHOD(createExecutionContextWithRuntimeConfig, at(55, 101100), 47, 53, 47, IExecutionContext*(IRuntimeConfig*)) \
    METHOD(createRuntimeConfig, at(56, 101100), 48, 54, 48, IRuntimeConfig*())

#define TRTLAB_TENSORRT_VExecutionContext(METHOD)                                                                    \
    METHOD(setProfiler, 5, 5, 5, 5, void(void*))                                                                     \
    METHOD(setDeviceMemory, 10, 10, 10, 10, void(void*))                                                             \
    METHOD(getOptimizationProfile, 11, 11, 11, 11, std::int32_t())                                                   \
    METHOD(setOptimizationProfileAsync, 17, 16, 17, 16, bool(std::int32_t, Stream))                                  \
    METHOD(setEnqueueEmitsProfile, 18, 17, 18, 17, void(bool))                                                       \
    METHOD(setInputShape, 21, 20, 21, 20, bool(const char*, const Dims&))                                            \
    METHOD(getTensorShape, 22, 21, 22, 21, Dims(const char*))                                                        \
    METHOD(setTensorAddress, 24, 23, 24, 23, bool(const char*, void*))                                               \
    METHOD(inferShapes, 28, 27, 28, 27, std::int32_t(std::int32_t, const char**))                                    \
    METHOD(setInputConsumedEvent, 29, 28, 29, 28, bool(Event))                                                       \
    METHOD(setOutputAllocator, 32, 31, 32, 31, bool(const char*, void*))                                             \
    METHOD(getMaxOutputSize, 34, 33, 34, 33, std::int64_t(const char*))                                              \
    METHOD(enqueueV3, 37, 36, 37, 36, bool(Stream))                                                                  \
    METHOD(setAuxStreams, 42, 41, 42, 41, void(Stream*, std::int32_t))                                               \
    METHOD(updateDeviceMemorySizeForShapes, 48, 47, 48, 47, std::size_t())                                           \
    METHOD(setDeviceMemoryV2, at(49, 100100), 48, 49, 48, void(void*, std::int64_t))                                 \
    METHOD(isStreamCapturable, -1, -1, 53, 52, bool(Stream))

#define TRTLAB_TENSORRT_VHostMemory(METHOD)                                                                          \
    METHOD(data, 2, 2, 2, 2, void*())                                                                                \
    METHOD(size, 3, 3, 3, 3, std::size_t())

#define TRTLAB_TENSORRT_VRuntimeConfig(METHOD)                                                                       \
    METHOD(setExecutionContextAllocationStrategy, at(3, 101100), 3, 3, 3, void(ExecutionContextAllocationStrategy))  \
    METHOD(createRuntimeCache, -1, -1, 5, 5, IRuntimeCache*())                                                       \
    METHOD(setRuntimeCache, -1, -1, 6, 6, bool(const IRuntimeCache&))

#define TRTLAB_TENSORRT_VEngineInspector(METHOD)                                                                     \
    METHOD(getEngineInformation, 6, 6, 6, 6, const char*(LayerInformationFormat))

// What TensorRT calls: the slots that the classes in interfaces.hpp must have. RTX's IOutputAllocator is shorter.
#define TRTLAB_TENSORRT_ILogger(METHOD)                                                                              \
    METHOD(log, 0, 4, 0, 4, void(Severity, const char*))
#define TRTLAB_TENSORRT_IProfiler(METHOD)                                                                            \
    METHOD(reportLayerTime, 0, 4, 0, 4, void(const char*, float))
#define TRTLAB_TENSORRT_IGpuAllocator(METHOD)                                                                        \
    METHOD(allocate, 4, 4, 4, 4, void*(std::uint64_t, std::uint64_t, std::uint32_t))                                 \
    METHOD(reallocate, 5, 5, 5, 5, void*(void*, std::uint64_t, std::uint64_t))                                       \
    METHOD(deallocate, 6, 6, 6, 6, bool(void*))                                                                      \
    METHOD(allocateAsync, 7, 7, 7, 7, void*(std::uint64_t, std::uint64_t, std::uint32_t, Stream))                    \
    METHOD(deallocateAsync, 8, 8, 8, 8, bool(void*, Stream))
#define TRTLAB_TENSORRT_IOutputAllocator(METHOD)                                                                     \
    METHOD(reallocateOutput, 4, 4, -1, -1, void*(const char*, void*, std::uint64_t, std::uint64_t))                  \
    METHOD(reallocateOutputAsync, 5, 5, 4, 4, void*(const char*, void*, std::uint64_t, std::uint64_t, Stream))       \
    METHOD(notifyShape, 6, 6, 5, 5, void(const char*, const Dims&))
// clang-format on

#define TRTLAB_TENSORRT_METHOD(name, trt10, trt11, rtx14, rtx17, ...) \
    static constexpr Method<Of, __VA_ARGS__> name{#name, {Slot(trt10), Slot(trt11), Slot(rtx14), Slot(rtx17)}};
#define TRTLAB_TENSORRT_CLASS(name, object)            \
    struct name {                                      \
        using Of = object;                             \
        TRTLAB_TENSORRT_##name(TRTLAB_TENSORRT_METHOD) \
    };
TRTLAB_TENSORRT_CLASS(VRuntime, IRuntime)
TRTLAB_TENSORRT_CLASS(VCudaEngine, ICudaEngine)
TRTLAB_TENSORRT_CLASS(VExecutionContext, IExecutionContext)
TRTLAB_TENSORRT_CLASS(VHostMemory, IHostMemory)
TRTLAB_TENSORRT_CLASS(VRuntimeConfig, IRuntimeConfig)
TRTLAB_TENSORRT_CLASS(VEngineInspector, IEngineInspector)
#undef TRTLAB_TENSORRT_CLASS
#undef TRTLAB_TENSORRT_METHOD

/// The deleting destructor's slot in the object's own table.
inline constexpr int kDeletingDestructor = 1;

/// Ends what the library made. Contexts before their engine, and engines before their runtime.
struct Destroy {
    void operator()(Object* object) const noexcept { object->vtable[kDeletingDestructor](object); }
};
template <class Of>
using Handle = std::unique_ptr<Of, Destroy>;

/// TensorRT 11 and RTX from 1.5 on derive ILogger and IProfiler from IVersionedInterface.
constexpr bool versioned(Generation generation) noexcept {
    return generation == Generation::trt11 || generation == Generation::rtx17;
}
constexpr bool is_rtx(Generation generation) noexcept {
    return generation == Generation::rtx14 || generation == Generation::rtx17;
}

/// Which table a library needs; none for a release that was not examined.
std::optional<Generation> generation_of(int version_number) noexcept;
/// 101601 -> "10.16.1"
std::string version_text(int version_number);

}  // namespace trtlab::tensorrt::abi

namespace trtlab::tensorrt {

/// A library's table, and how its methods are called.
struct Library::Abi {
    Generation generation = Generation::trt10;
    int version = 0;
    const void* base = nullptr;  ///< where the loader has put the file
    void* (*create_runtime)(void* logger, std::int32_t version) = nullptr;

    template <class Of, class Signature>
    bool has(const abi::Method<Of, Signature>& method) const noexcept {
        const abi::Slot& slot = method.slots[static_cast<std::size_t>(generation)];
        return slot.index >= 0 && version >= slot.since;
    }

    /// Throws EngineError, naming the release it takes, if the library lacks the method.
    template <class Of, class Result, class... Arguments>
    Result call(const abi::Method<Of, Result(Arguments...)>& method, const Of* object,
                std::type_identity_t<Arguments>... arguments) const {
        const abi::Slot& slot = method.slots[static_cast<std::size_t>(generation)];
        if (slot.index < 0 || version < slot.since) [[unlikely]]
            throw_absent(method.name, slot);
        using Function = Result (*)(void*, Arguments...);
        return (*static_cast<const Function* const*>(object->impl))[slot.index](object->impl, arguments...);
    }

    /// Throws InvalidArgument unless the object's table lies in this library: nothing of another one may be called through
    /// these slots.
    void check_made_here(const abi::Object* object, const char* what, const Library& library) const;

private:
    [[noreturn]] void throw_absent(const char* method, const abi::Slot& slot) const;
};

}  // namespace trtlab::tensorrt
