#include "memory.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "module.hpp"
#include "reports.hpp"
#include "trtlab/core/debug_memory.hpp"
#include "trtlab/core/limited_memory.hpp"
#include "trtlab/core/tracked_memory.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

core::Pages pages_named(const std::string& name) {
    if (name == "normal") return core::Pages::normal;
    if (name == "transparent_huge") return core::Pages::transparent_huge;
    if (name == "huge_2mib") return core::Pages::huge_2mib;
    if (name == "huge_1gib") return core::Pages::huge_1gib;
    throw core::InvalidArgument(
        "host memory, pages: expected 'normal', 'transparent_huge', 'huge_2mib' or 'huge_1gib', got '" + name + "'");
}

/// What a debug memory has found, kept for Python. Written on any thread, which never waits for the GIL.
class Findings {
public:
    void add(const std::string& message) {
        const std::lock_guard lock(mutex_);
        if (messages_.size() == kMost) messages_.pop_front();
        messages_.push_back(message);
    }
    std::vector<std::string> all() const {
        const std::lock_guard lock(mutex_);
        return {messages_.begin(), messages_.end()};
    }

private:
    static constexpr std::size_t kMost = 1000;
    mutable std::mutex mutex_;
    std::deque<std::string> messages_;
};

class DebugHandle final : public MemoryHandle {
public:
    explicit DebugHandle(const std::shared_ptr<core::MemoryResource>& upstream)
        : DebugHandle(upstream, std::make_shared<Findings>()) {}
    const core::DebugMemory& get() const noexcept { return static_cast<const core::DebugMemory&>(*resource()); }
    const Findings& findings() const {
        refuse_forked(made_in_, "debug memory");
        return *findings_;
    }

private:
    DebugHandle(const std::shared_ptr<core::MemoryResource>& upstream, const std::shared_ptr<Findings>& findings)
        : MemoryHandle(std::make_shared<core::DebugMemory>(upstream,
                                                           [findings](const core::DebugMemory::Report& report) {
                                                               core::log(report.message);
                                                               findings->add(report.message);
                                                           })),
          findings_(findings),
          made_in_(generation()) {}
    std::shared_ptr<Findings> findings_;
    int made_in_;
};

nb::dict snapshot(const Resource<core::TrackedMemory>& memory) {
    const auto now = memory.get().snapshot();
    nb::dict named, by_size;
    named["size_bytes"] = now.size_bytes;
    named["peak_bytes"] = now.peak_bytes;
    named["blocks"] = now.blocks();
    named["allocations"] = now.allocations;
    named["deallocations"] = now.deallocations;
    named["failures"] = now.failures;
    for (std::size_t i = 0; i < now.by_size.size(); ++i) {
        if (now.by_size[i] != 0) by_size[nb::int_(std::uint64_t{1} << i)] = now.by_size[i];
    }
    named["by_size"] = by_size;
    return named;
}

void bind_host_memory(nb::module_& module) {
    using Host = Resource<core::HostMemory>;
    nb::class_<Host, MemoryHandle>(
        module, "HostMemory",
        "Memory of the host. With any argument, each block has whole pages to itself: for few and large blocks.")
        .def(
            "__init__",
            [](Host* self, const std::string& pages, std::optional<int> node, bool touch, bool strict) {
                new (self) Host(std::make_shared<core::HostMemory>(core::HostMemory::Options{
                    .pages = pages_named(pages), .node = node, .touch = touch, .strict = strict}));
            },
            nb::arg("pages") = "normal", nb::kw_only(), nb::arg("node") = nb::none(), nb::arg("touch") = false,
            nb::arg("strict") = true,
            "``pages``: \"normal\", \"transparent_huge\" (the kernel gives huge pages when it can), \"huge_2mib\" or "
            "\"huge_1gib\" (of those\nthat the administrator reserved). ``node``: the NUMA node that all pages lie on, "
            "which is checked. ``touch``: have the pages\nmade at once, near the calling thread. What the system "
            "refuses raises InvalidArgument here or OutOfMemory in ``allocate``,\nsaying what to do; with "
            "``strict=False`` it is left out instead, and ``left_out`` says so.")
        .def_prop_ro(
            "left_out", [](const Host& self) { return self.get().left_out(); },
            "The first thing that was left out, in words; empty if there was none.");
}

void bind_composed(nb::module_& module) {
    using Limited = Resource<core::LimitedMemory>;
    nb::class_<Limited, MemoryHandle>(module, "LimitedMemory",
                                      "A cap on what is taken of another resource: beyond it, OutOfMemory says what is "
                                      "in use, and nobody waits.")
        .def(
            "__init__",
            [](Limited* self, const MemoryHandle& upstream, nb::object size_bytes, nb::object blocks) {
                constexpr std::size_t kNone = core::LimitedMemory::kUnlimited;
                new (self) Limited(std::make_shared<core::LimitedMemory>(
                    upstream.resource(),
                    core::LimitedMemory::Limits{to_size(size_bytes, "a limit, size_bytes", 0, kNone),
                                                to_size(blocks, "a limit, blocks", 0, kNone)}));
            },
            nb::arg("upstream"), nb::arg("size_bytes") = nb::none(), nb::arg("blocks") = nb::none(),
            nb::sig("def __init__(self, upstream: MemoryResource, size_bytes: int | None = None, blocks: int | None = "
                    "None) -> None"),
            "``size_bytes`` of all live blocks together, ``blocks`` of them; None: no limit. Raises InvalidArgument.")
        .def(
            "in_use",
            [](const Limited& self) {
                const auto now = self.get().in_use();
                nb::dict named;
                named["size_bytes"] = now.size_bytes;
                named["blocks"] = now.blocks;
                return named;
            },
            nb::sig("def in_use(self) -> dict[str, int]"), "size_bytes, blocks.");

    using Tracked = Resource<core::TrackedMemory>;
    nb::class_<Tracked, MemoryHandle>(module, "TrackedMemory", "Counts what is taken of another resource.")
        .def(
            "__init__",
            [](Tracked* self, const MemoryHandle& upstream, std::string owner, std::string what) {
                new (self) Tracked(
                    std::make_shared<core::TrackedMemory>(upstream.resource(), std::move(owner), std::move(what)));
            },
            nb::arg("upstream"), nb::arg("owner") = "tracked memory", nb::arg("what") = "blocks",
            "``owner`` and ``what`` are for ``memory_use``.")
        .def("snapshot", &snapshot, nb::sig("def snapshot(self) -> dict[str, typing.Any]"),
             "size_bytes (of live blocks), peak_bytes, blocks, allocations, deallocations, failures, and by_size: "
             "allocations of so many\nbytes up to twice as many.")
        .def(
            "memory_use", [](const Tracked& self) { return nb::object(to_list({self.get().memory_use()})[0]); },
            nb::sig("def memory_use(self) -> trtlab.manager.MemoryUse"), "Its line in a memory report.");

    nb::class_<DebugHandle, MemoryHandle>(
        module, "DebugMemory",
        "Finds misuse of another resource's blocks by code that allocates in C++: fills, fences, double free, wrong "
        "size, leaks.")
        .def(
            "__init__",
            [](DebugHandle* self, const MemoryHandle& upstream) { new (self) DebugHandle(upstream.resource()); },
            nb::arg("upstream"), "What is found is logged to stderr, and kept for ``reports``.")
        .def_prop_ro(
            "live_blocks", [](const DebugHandle& self) { return self.get().live_blocks(); }, "Blocks in use.")
        .def(
            "check", [](const DebugHandle& self) { return self.get().check(); }, nb::call_guard<ReleasedGil>(),
            "Look at the fences of all live blocks now; return how many are damaged. Without the GIL.")
        .def(
            "reports", [](const DebugHandle& self) { return self.findings().all(); },
            "What was found, oldest first, at most the last 1000.");
}

}  // namespace

std::size_t to_size(nb::handle value, const char* what, std::size_t least, std::size_t otherwise) {
    if (value.is_none()) return otherwise;
    std::int64_t number = -1;
    if (!nb::try_cast(value, number, false) || number < 0 || static_cast<std::size_t>(number) < least) {
        throw core::InvalidArgument(std::string(what) + ": expected an int of at least " + std::to_string(least) +
                                    " and below 2**63, got " +
                                    nb::cast<std::string>(nb::module_::import_("trtlab.manager").attr("shown")(value)));
    }
    return static_cast<std::size_t>(number);
}

void bind_memory(nb::module_& module) {
    nb::class_<MemoryHandle>(module, "MemoryResource", nb::is_weak_referenceable(),
                             "Where blocks of memory come from: the host, a GPU, or another resource that this one "
                             "stands on and keeps.\n\n``trtlab.memory.allocate`` takes blocks.")
        .def_prop_ro(
            "name", [](const MemoryHandle& self) { return self.resource()->name(); }, "As messages have it.")
        .def_prop_ro(
            "device", [](const MemoryHandle& self) { return self.resource()->device().to_string(); },
            "Where the blocks are: \"cpu\", \"cuda:0\", \"cuda_host\" (pinned) or \"cuda_managed:0\".")
        .def("__repr__", [](nb::handle self) {
            return "<trtlab " + nb::cast<std::string>(self.type().attr("__name__")) + " of " +
                   instance<MemoryHandle>(self).resource()->name() + ">";
        });
    bind_host_memory(module);
    bind_composed(module);
}

}  // namespace trtlab::bindings
