#pragma once

#include <atomic>
#include <cstddef>
#include <new>
#include <string>

#include "trtlab/core/memory.hpp"

namespace trtlab::core::testing {

/// Host memory that says how many of its blocks are out.
class CountedMemory final : public MemoryResource {
public:
    explicit CountedMemory(Device device = {}) : device_(device) {}
    Device device() const noexcept override { return device_; }
    std::string name() const override { return "counted memory"; }
    int blocks() const noexcept { return blocks_.load(); }

protected:
    void* do_allocate(std::size_t size_bytes, std::size_t alignment) override {
        ++blocks_;
        return ::operator new(size_bytes, std::align_val_t(alignment));
    }
    void do_deallocate(void* block, std::size_t, std::size_t alignment) noexcept override {
        ::operator delete(block, std::align_val_t(alignment));
        --blocks_;
    }

private:
    Device device_;
    std::atomic<int> blocks_{0};
};

}  // namespace trtlab::core::testing
