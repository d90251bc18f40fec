#pragma once

#include <cstdint>

#include "abi.hpp"
#include "trtlab/tensorrt/runtime.hpp"

// What an application implements and TensorRT calls. The order of the virtual functions is the interface; a destructor
// takes two slots, where it stands. TensorRT never calls one.

namespace trtlab::tensorrt::abi {

class VersionedInterface {
public:
    virtual APILanguage getAPILanguage() const noexcept { return APILanguage::kCPP; }
    virtual InterfaceInfo getInterfaceInfo() const noexcept = 0;
    virtual ~VersionedInterface() = default;
};

/// TensorRT 10, RTX 1.4.
class OldLogger {
public:
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~OldLogger() = default;
};

/// TensorRT 11, RTX from 1.5 on.
class VersionedLogger : public VersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"ILogger", 1, 0}; }
    virtual void log(Severity severity, const char* message) noexcept = 0;
};

/// TensorRT 10, RTX 1.4.
class OldProfiler {
public:
    virtual void reportLayerTime(const char* layer, float milliseconds) noexcept = 0;
    virtual ~OldProfiler() = default;
};

/// TensorRT 11, RTX from 1.5 on.
class VersionedProfiler : public VersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"IProfiler", 1, 0}; }
    virtual void reportLayerTime(const char* layer, float milliseconds) noexcept = 0;
};

/// The same in all generations.
class GpuAllocator : public VersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"IGpuAllocator", 1, 0}; }
    virtual void* allocate(std::uint64_t size, std::uint64_t alignment, std::uint32_t flags) noexcept = 0;
    virtual void* reallocate(void* memory, std::uint64_t alignment, std::uint64_t size) noexcept = 0;
    virtual bool deallocate(void* memory) noexcept = 0;
    virtual void* allocateAsync(std::uint64_t size, std::uint64_t alignment, std::uint32_t flags,
                                Stream stream) noexcept = 0;
    virtual bool deallocateAsync(void* memory, Stream stream) noexcept = 0;
};

/// TensorRT 10 and 11.
class OutputAllocator : public VersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"IOutputAllocator", 1, 0}; }
    virtual void* reallocateOutput(const char* tensor, void* memory, std::uint64_t size,
                                   std::uint64_t alignment) noexcept = 0;
    virtual void* reallocateOutputAsync(const char* tensor, void* memory, std::uint64_t size, std::uint64_t alignment,
                                        Stream stream) noexcept = 0;
    virtual void notifyShape(const char* tensor, const Dims& dims) noexcept = 0;
};

/// TensorRT-RTX.
class RtxOutputAllocator : public VersionedInterface {
public:
    InterfaceInfo getInterfaceInfo() const noexcept override { return {"IOutputAllocator", 1, 0}; }
    virtual void* reallocateOutputAsync(const char* tensor, void* memory, std::uint64_t size, std::uint64_t alignment,
                                        Stream stream) noexcept = 0;
    virtual void notifyShape(const char* tensor, const Dims& dims) noexcept = 0;
};

}  // namespace trtlab::tensorrt::abi
