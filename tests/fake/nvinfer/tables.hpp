#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "fake_nvinfer.hpp"

namespace fake_nvinfer {

/// As TensorRT lays it out.
struct Dims {
    std::int32_t nbDims = 0;
    std::int64_t d[8] = {};
};

/// What the application holds of an object: its own table (two destructors), and what the methods are called on.
struct Api {
    void* const* table;
    void* object;
};
/// What the methods are called on.
struct Base {
    void** table;
    Api api;
};

enum class Class { runtime, engine, context, host_memory, config, cache, inspector };
inline constexpr std::array<const char*, 7> kClassNames{"VRuntime",        "VCudaEngine",    "VExecutionContext",
                                                        "VHostMemory",     "VRuntimeConfig", "VRuntimeCache",
                                                        "VEngineInspector"};

/// The tables of functions of one release, from the facts. A slot without a function of the fake's, or past the end of the
/// release's table, holds one that records a violation.
class Tables {
public:
    static constexpr int kSlots = 80;
    explicit Tables(int version);
    Tables(const Tables&) = delete;
    Tables& operator=(const Tables&) = delete;

    void** of(Class one) { return tables_[static_cast<std::size_t>(one)].data(); }
    /// Ignored where the release lacks the method.
    template <class Function>
    void set(Class one, const char* method, Function* function) {
        const int slot = slot_of(kClassNames[static_cast<std::size_t>(one)], method);
        if (slot >= 0) of(one)[slot] = reinterpret_cast<void*>(function);
    }
    /// -1 where the release lacks it.
    int slot_of(const char* name, const char* method) const;
    int version() const { return version_; }
    bool rtx() const { return version_ < 100000; }

    /// Calls the application's object through the slot that its class has in this release.
    template <class Result, class... Arguments>
    Result call(const char* name, const char* method, void* object, Arguments... arguments) const {
        const int slot = slot_of(name, method);
        auto* function = reinterpret_cast<Result (*)(void*, Arguments...)>((*static_cast<void***>(object))[slot]);
        return function(object, arguments...);
    }

private:
    const int version_;
    const std::string table_;
    std::array<std::array<void*, kSlots>, kClassNames.size()> tables_;
};

Control& the_control();

}  // namespace fake_nvinfer
