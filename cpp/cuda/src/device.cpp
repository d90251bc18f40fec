#include "trtlab/cuda/device.hpp"

#include <charconv>

#include "api.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

namespace trtlab::cuda {
namespace {

constexpr std::string_view kPrefix = "cuda";

std::string devices_in_words(const Library& library, int count) {
    if (count == 0) return "there is no CUDA device: " + library.why_no_device();
    if (count == 1) return "this process has one, cuda:0";
    return "this process has cuda:0 to cuda:" + std::to_string(count - 1);
}

}  // namespace

Device::Device(std::shared_ptr<const Library> library, int ordinal) : library_(std::move(library)), ordinal_(ordinal) {
    if (library_ == nullptr) throw core::InvalidArgument("cuda:" + std::to_string(ordinal) + ": the library is null");
    const int count = library_->device_count();
    if (ordinal < 0 || ordinal >= count) {
        throw core::NotFound("cuda:" + std::to_string(ordinal) + " does not exist; " +
                             devices_in_words(*library_, count));
    }
    const Library::Api& api = library_->api();
    const auto index = static_cast<std::size_t>(ordinal);
    {
        std::lock_guard lock(api.mutex);
        if (index < api.devices.size()) properties_ = api.devices[index];
    }
    if (properties_ != nullptr) return;
    // Not under the lock: it may start the driver. Two threads that come first both ask, and get the same.
    auto queried = std::make_shared<const DeviceProperties>(query_properties(*library_, ordinal));
    std::lock_guard lock(api.mutex);
    if (api.devices.size() <= index) api.devices.resize(index + 1);
    if (api.devices[index] == nullptr) api.devices[index] = std::move(queried);
    properties_ = api.devices[index];
}

Device Device::named(const std::shared_ptr<const Library>& library, std::string_view name) {
    const auto refuse = [&] {
        throw core::InvalidArgument("'" + std::string(name) +
                                    "' names no CUDA device; expected \"cuda\", \"cuda:<number>\" or "
                                    "\"cuda:GPU-<uuid>\" as nvidia-smi -L prints it");
    };
    if (!name.starts_with(kPrefix)) refuse();
    std::string_view rest = name.substr(kPrefix.size());
    if (rest.empty()) return Device(library, 0);
    if (!rest.starts_with(':')) refuse();
    rest.remove_prefix(1);
    if (rest.starts_with("GPU-")) {
        std::string known;
        for (Device& device : list(library)) {
            if (device.properties().uuid == rest) return std::move(device);
            known += (known.empty() ? "" : ", ") + device.properties().uuid;
        }
        throw core::NotFound("there is no CUDA device '" + std::string(rest) + "' in this process; " +
                             (known.empty() ? devices_in_words(*library, 0) : "it has " + known));
    }
    int ordinal = -1;
    const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), ordinal);
    if (error != std::errc() || end != rest.data() + rest.size() || ordinal < 0) refuse();
    return Device(library, ordinal);
}

std::vector<Device> Device::list(const std::shared_ptr<const Library>& library) {
    std::vector<Device> devices;
    const int count = library->device_count();
    for (int ordinal = 0; ordinal < count; ++ordinal) devices.emplace_back(library, ordinal);
    return devices;
}

std::string Device::to_string() const { return core_device().to_string(); }

Device::Memory Device::memory() const {
    const DeviceGuard guard(*this);
    Memory memory;
    library_->check(library_->api().MemGetInfo(&memory.free_bytes, &memory.total_bytes), "cudaMemGetInfo", ordinal_);
    return memory;
}

Device::Load Device::load() const noexcept { return library_->api().nvml.load(properties_->uuid); }

void Device::synchronize() const {
    const DeviceGuard guard(*this);
    library_->check(library_->api().DeviceSynchronize(), "cudaDeviceSynchronize", ordinal_);
}

void Device::make_current() const { library_->check(library_->api().SetDevice(ordinal_), "cudaSetDevice", ordinal_); }

bool Device::bind_this_thread() const noexcept {
    try {
        return !properties_->cpus.empty() && core::try_pin_thread(properties_->cpus).empty();
    } catch (...) {
        return false;  // no memory for the reason
    }
}

bool Device::can_access(const Device& other) const {
    if (other.ordinal_ == ordinal_) return true;
    int can = 0;
    library_->check(library_->api().DeviceCanAccessPeer(&can, ordinal_, other.ordinal_), "cudaDeviceCanAccessPeer",
                    ordinal_);
    return can != 0;
}

DeviceGuard::DeviceGuard(const Device& device) : library_(*device.library()) {
    library_.check(library_.api().GetDevice(&before_), "cudaGetDevice", device.ordinal());
    if (before_ == device.ordinal()) return;
    device.make_current();
    changed_ = true;
}

DeviceGuard::~DeviceGuard() {
    if (changed_) library_.report(library_.api().SetDevice(before_), "cudaSetDevice", before_);
}

}  // namespace trtlab::cuda
