#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "memory_handle.hpp"
#include "module.hpp"
#include "trtlab/core/error.hpp"
#include "trtlab/cuda/memory.hpp"

namespace trtlab::cuda {
namespace nb = nanobind;
using bindings::Block;
using bindings::MemoryHandle;
using bindings::PartOfBlock;
using bindings::ReleasedGil;

namespace {

std::shared_ptr<core::MemoryResource> resource_of(const Device& device, const std::string& kind) {
    if (kind == "device") return std::make_shared<DeviceMemory>(device);
    if (kind == "pinned") return std::make_shared<PinnedMemory>(device);
    if (kind == "managed") return std::make_shared<ManagedMemory>(device);
    throw core::InvalidArgument("memory of " + device.to_string() +
                                ": kind: expected 'device', 'pinned' or 'managed', got '" + kind + "'");
}

/// Memory of a GPU as a resource, for others to stand on.
class GpuMemory final : public MemoryHandle {
public:
    GpuMemory(const Device& device, const std::string& kind) : MemoryHandle(resource_of(device, kind)) {}
};

/// A buffer that knows its GPU.
class GpuBuffer final : public PartOfBlock {
public:
    GpuBuffer(core::Ref<const core::RefCounted> owner, const core::BufferView& range, Device device_)
        : PartOfBlock(std::move(owner), range), device(std::move(device_)) {}
    GpuBuffer(GpuBuffer&&) = default;
    Device device;
};

GpuBuffer allocate(const Device& device, std::size_t size_bytes, const std::string& kind) {
    auto block = core::make_ref<Block>(core::Buffer(resource_of(device, kind), size_bytes));
    const core::BufferView range = block->buffer.view();
    return GpuBuffer(std::move(block), range, device);
}

/// Bytes of a dense array. Throws InvalidArgument: an unknown dtype, a negative extent, an overflow, byte strings.
std::size_t dense_bytes(std::string_view dtype, const std::vector<std::int64_t>& shape) {
    const core::DType type = core::dtype_from_name(dtype);
    if (type == core::DType::bytes)
        throw core::InvalidArgument("an array in a GPU's memory holds numbers, and no byte strings");
    return core::checked_mul(core::Shape(shape).elements(), core::size_of(type));
}

}  // namespace

void bind_buffer(nb::module_& module) {
    nb::class_<GpuMemory, MemoryHandle>(module, "Memory",
                                        "Memory of a GPU, or pinned or managed memory, as a resource.")
        .def(
            "__init__",
            [](GpuMemory* self, const Device& device, const std::string& kind) { new (self) GpuMemory(device, kind); },
            nb::arg("device"), nb::arg("kind"), "See trtlab.cuda.Memory.");
    nb::class_<GpuBuffer, PartOfBlock>(
        module, "Buffer", nb::is_final(),
        "Bytes in the memory of a GPU, or in pinned or managed memory, which are also a Python buffer.\n\n"
        "Given back when the last of its users goes: buffers, slices, tensors, copies under way.")
        .def_prop_ro(
            "device", [](const GpuBuffer& self) { return self.device; }, "The GPU that it is of, or near to.")
        .def(
            "slice",
            [](const GpuBuffer& self, std::size_t offset_bytes, std::size_t size_bytes) {
                return GpuBuffer(self.owner(), self.range().slice(offset_bytes, size_bytes), self.device);
            },
            nb::arg("offset_bytes"), nb::arg("size_bytes"),
            "Part of it, in the same memory. Raises InvalidArgument if that reaches over the end.");
    module.def("allocate", &allocate, nb::arg("device"), nb::arg("size_bytes"), nb::arg("kind"),
               nb::call_guard<ReleasedGil>(), "See trtlab.cuda.allocate.");
    module.def("dense_bytes", &dense_bytes, nb::arg("dtype"), nb::arg("shape"), "Bytes of a dense array.");
}

}  // namespace trtlab::cuda
