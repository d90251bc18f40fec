#include "trtlab/core/device.hpp"

namespace trtlab::core {

std::string Device::to_string() const {
    switch (type) {
        case DeviceType::cpu:
            return "cpu";
        case DeviceType::cuda:
            return "cuda:" + std::to_string(index);
        case DeviceType::cuda_host:
            return "cuda_host";
        case DeviceType::cuda_managed:
            return "cuda_managed:" + std::to_string(index);
    }
    return "device type " + std::to_string(static_cast<int>(type));
}

}  // namespace trtlab::core
