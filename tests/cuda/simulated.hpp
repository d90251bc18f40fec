#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <memory>
#include <string>

#include "fake_cuda.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/cuda/library.hpp"

namespace trtlab::cuda::test {

/// What `f` throws as an `Exception` says; fails the test if it does not throw one.
template <class Exception>
std::string message_of(const std::function<void()>& f) {
    try {
        f();
    } catch (const Exception& error) {
        return error.what();
    } catch (const std::exception& error) {
        ADD_FAILURE() << "another exception was thrown: " << error.what();
        return "";
    }
    ADD_FAILURE() << "nothing was thrown";
    return "";
}

/// The fake runtime's file: where the build has put it, or $TRTLAB_FAKE_CUDART if the tests were carried elsewhere.
inline std::string fake_path() {
    const char* moved = std::getenv("TRTLAB_FAKE_CUDART");
    return moved != nullptr ? moved : TRTLAB_FAKE_CUDART;
}

/// Tests over the fake runtime: it begins anew for each, and nothing may be left at its end.
class Simulated : public testing::Test {
protected:
    void SetUp() override { restart(1); }
    void TearDown() override {
        EXPECT_EQ(fake_.live_objects(), 0u) << "something of CUDA's was not given back";
        EXPECT_EQ(fake_.violations(), violations_);
        fake_.reset();
    }
    /// As a new process would find it.
    void restart(int devices) {
        fake_.reset();
        fake_.set_devices(devices);
        library_ = Library::open({.path = fake_path(), .directories = {}});
    }
    Device gpu(int ordinal = 0) const { return Device(library_, ordinal); }

    FakeCuda fake_{fake_path()};
    std::shared_ptr<const Library> library_;
    std::size_t violations_ = 0;  // that the test provokes
};

/// The real runtime: $TRTLAB_CUDART_LIBRARY, or that of PyPI's package, beside the headers that the layer was compiled with.
inline std::shared_ptr<const Library> real_library() {
    return Library::open({.path = "", .directories = {TRTLAB_CUDART_DIR}});
}

/// Tests that need a GPU.
class Gpu : public testing::Test {
protected:
    void SetUp() override {
        library_ = real_library();
        if (library_->device_count() == 0) GTEST_SKIP() << "no CUDA device: " << library_->why_no_device();
    }
    Device gpu(int ordinal = 0) const { return Device(library_, ordinal); }

    std::shared_ptr<const Library> library_;
};

}  // namespace trtlab::cuda::test
