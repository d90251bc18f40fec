#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "../machine.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/device.hpp"
#include "trtlab/cuda/library.hpp"
#include "trtlab/tensorrt/library.hpp"
#include "trtlab/tensorrt/runtime.hpp"

namespace trtlab::bench {

/// The libraries and the first GPU, as every benchmark here wants them.
struct Setup {
    std::shared_ptr<const cuda::Library> cuda_library;
    cuda::Device device;
    std::shared_ptr<const tensorrt::Library> library;
    std::shared_ptr<tensorrt::Runtime> runtime;

    /// Opens them, and prints the header of a report.
    static Setup open(int argc, char** argv) {
        const auto cuda_library = cuda::Library::open();
        cuda::Device device(cuda_library, 0);
        device.make_current();
        auto library = tensorrt::Library::open();
        auto runtime = tensorrt::Runtime::create(library, device, {});

        std::string command;
        for (int i = 0; i < argc; ++i) command += (i == 0 ? "" : " ") + std::string(argv[i]);
        print("command", command);
        for (const auto& [what, value] : machine()) print(what, value);
        const cuda::DeviceProperties& properties = device.properties();
        print("GPU", properties.name + ", " + std::to_string(properties.multiprocessors) + " multiprocessors, " +
                         std::to_string(properties.total_memory_bytes >> 20) + " MiB, compute capability " +
                         std::to_string(properties.compute_major) + "." + std::to_string(properties.compute_minor) +
                         ", NUMA node " + std::to_string(properties.numa_node));
        print("driver", first_line("/proc/driver/nvidia/version") + ", for CUDA up to " +
                            std::to_string(cuda_library->driver_version()));
        print("CUDA", std::to_string(cuda_library->version()) + ", " + cuda_library->path());
        print("TensorRT", library->to_string() + ", " + library->path());
        std::fflush(stdout);
        return {cuda_library, std::move(device), std::move(library), std::move(runtime)};
    }

private:
    static void print(const std::string& what, const std::string& value) {
        std::printf("%-10s %s\n", what.c_str(), value.c_str());
    }
};

}  // namespace trtlab::bench
