#include "affinity.hpp"

#include <nanobind/make_iterator.h>
#include <nanobind/operators.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <functional>
#include <optional>

#include "errors.hpp"
#include "module.hpp"
#include "trtlab/core/affinity.hpp"
#include "trtlab/core/topology.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

core::CpuSet to_cpu_set(nb::handle cpus) {
    if (cpus.is_none()) return {};
    if (nb::isinstance<core::CpuSet>(cpus)) return instance<core::CpuSet>(cpus);
    std::string text;
    if (nb::try_cast(cpus, text)) return core::CpuSet::parse(text);
    core::CpuSet set;
    try {
        for (nb::handle each : nb::iter(cpus)) set.add(nb::cast<int>(each));
    } catch (const std::bad_cast&) {
        throw core::InvalidArgument("CPUs: expected text such as \"0-3,8\", or ints, got " +
                                    nb::cast<std::string>(nb::str(cpus.type())));
    } catch (nb::python_error& error) {
        if (!error.matches(PyExc_TypeError)) throw;
        throw core::InvalidArgument("CPUs: expected text such as \"0-3,8\", or ints, got " +
                                    nb::cast<std::string>(nb::str(cpus.type())));
    }
    return set;
}

namespace {

using core::CpuSet;
using core::Topology;

std::optional<int> if_any(int number) { return number < 0 ? std::nullopt : std::optional(number); }

/// A scope that is entered and left by a `with` block, by one thread.
template <class Scope>
class Within {
public:
    template <class... Arguments>
    void enter(const char* what, const Arguments&... arguments) {
        if (scope_) throw core::InvalidArgument(std::string("this ") + what + " was entered before; make a new one");
        scope_.emplace(arguments...);
        thread_ = gettid();
        reason_ = scope_->reason();
    }
    void leave(const char* what) {
        if (scope_ && thread_ != gettid())
            throw core::InvalidArgument(std::string("this ") + what + " was entered by another thread; leave it there");
        scope_.reset();
    }
    const std::string& reason() const noexcept { return reason_; }

    Within() = default;
    Within(Within&&) = delete;
    ~Within() {
        // Dropped inside of the block by another thread: that one's affinity is none of this one's business.
        if (scope_ && thread_ != gettid()) new std::optional<Holder>(std::move(scope_));
    }

private:
    /// Movable, to be let go of.
    struct Holder {
        template <class... Arguments>
        explicit Holder(const Arguments&... arguments) : scope(std::make_unique<Scope>(arguments...)) {}
        const std::string& reason() const noexcept { return scope->reason(); }
        std::unique_ptr<Scope> scope;
    };
    std::optional<Holder> scope_;
    pid_t thread_ = 0;
    std::string reason_;
};

struct AffinityScope : Within<core::ScopedAffinity> {
    explicit AffinityScope(CpuSet cpus_) : cpus(std::move(cpus_)) {}
    CpuSet cpus;
};

struct MemoryScope : Within<core::ScopedMemoryNode> {
    MemoryScope(int node_, core::NodePolicy policy_) : node(node_), policy(policy_) {}
    int node;
    core::NodePolicy policy;
};

void bind_cpu_set(nb::module_& module) {
    nb::class_<CpuSet>(module, "CpuSet",
                       "A set of CPUs, by the kernel's numbers. Immutable; iterates in ascending order.\n\n"
                       "From text as the kernel writes it, \"0-3,8\", or from ints. As many CPUs as any machine has.\n"
                       "Raises InvalidArgument for anything else. ``|``, ``&``, ``-``, ``==``, ``<=`` as of sets.")
        .def(
            "__init__", [](CpuSet* self, nb::handle cpus) { new (self) CpuSet(to_cpu_set(cpus)); },
            nb::arg("cpus").none() = nb::none(),
            nb::sig("def __init__(self, cpus: CpuSet | str | collections.abc.Iterable[int] | None = None) -> None"))
        .def_prop_ro(
            "first", [](const CpuSet& self) { return if_any(self.first()); }, "The lowest; None if there is none.")
        .def_prop_ro(
            "last", [](const CpuSet& self) { return if_any(self.last()); }, "The highest; None if there is none.")
        .def("__len__", &CpuSet::count)
        .def("__bool__", [](const CpuSet& self) { return !self.empty(); })
        .def(
            "__contains__", [](const CpuSet& self, int cpu) { return self.contains(cpu); }, nb::arg("cpu"))
        .def(
            "__iter__",
            [](const CpuSet& self) { return nb::iter(nb::cast(std::vector<int>(self.begin(), self.end()))); },
            nb::sig("def __iter__(self) -> collections.abc.Iterator[int]"))
        .def(
            "__or__", [](const CpuSet& a, const CpuSet& b) { return a | b; }, nb::is_operator())
        .def(
            "__and__", [](const CpuSet& a, const CpuSet& b) { return a & b; }, nb::is_operator())
        .def(
            "__sub__", [](const CpuSet& a, const CpuSet& b) { return a - b; }, nb::is_operator())
        .def(
            "__le__", [](const CpuSet& a, const CpuSet& b) { return b.contains(a); }, nb::is_operator())
        .def(
            "__ge__", [](const CpuSet& a, const CpuSet& b) { return a.contains(b); }, nb::is_operator())
        .def(
            "__eq__", [](const CpuSet& a, const CpuSet& b) { return a == b; }, nb::is_operator(),
            nb::sig("def __eq__(self, other: object, /) -> bool"))
        .def("__hash__", [](const CpuSet& self) { return std::hash<std::string>()(self.to_string()); })
        .def(
            "__reduce__",
            [](const CpuSet& self) { return nb::make_tuple(nb::type<CpuSet>(), nb::make_tuple(self.to_string())); },
            nb::sig("def __reduce__(self) -> tuple[type[CpuSet], tuple[str]]"))
        .def("__str__", &CpuSet::to_string)
        .def("__repr__", [](const CpuSet& self) { return "CpuSet('" + self.to_string() + "')"; });
}

void bind_topology(nb::module_& module) {
    nb::class_<Topology::NumaNode>(module, "NumaNode", "Memory, and the CPUs that it is local to.")
        .def_ro("id", &Topology::NumaNode::id, "The kernel's number.")
        .def_ro("cpus", &Topology::NumaNode::cpus, "CPUs that it is local to.")
        .def_ro("memory_bytes", &Topology::NumaNode::memory_bytes, "Memory that it has.")
        .def_ro("distances", &Topology::NumaNode::distances,
                "To each of the topology's nodes, in their order; 10 is local. Empty where nobody knows.");
    nb::class_<Topology::Package>(module, "Package", "What sits in one socket.")
        .def_ro("id", &Topology::Package::id, "The kernel's number.")
        .def_ro("cpus", &Topology::Package::cpus, "Its CPUs.");
    nb::class_<Topology::Core>(module, "Core", "A core: its CPUs compete for the same units.")
        .def_ro("id", &Topology::Core::id, "From 0 on, through all packages.")
        .def_ro("cpus", &Topology::Core::cpus, "Its CPUs.");
    nb::class_<Topology::Cache>(module, "Cache", "A cache, and the CPUs that share it.")
        .def_ro("level", &Topology::Cache::level, "1 to 5.")
        .def_prop_ro(
            "kind",
            [](const Topology::Cache& self) {
                return self.kind == Topology::CacheKind::data          ? "data"
                       : self.kind == Topology::CacheKind::instruction ? "instruction"
                                                                       : "unified";
            },
            "\"unified\", \"data\" or \"instruction\".")
        .def_ro("size_bytes", &Topology::Cache::size_bytes, "Bytes.")
        .def_ro("line_bytes", &Topology::Cache::line_bytes, "Bytes of a line; 0 where nobody knows.")
        .def_ro("cpus", &Topology::Cache::cpus, "CPUs that share it.");
    nb::class_<Topology>(module, "Topology", "What a machine consists of, as it was when this was made. Immutable.")
        .def_static(
            "system", [] { return &Topology::system(); }, nb::rv_policy::reference, nb::call_guard<ReleasedGil>(),
            "This machine's, read at the first call: some milliseconds, without the GIL. Raises Error.")
        .def_static("synthetic", &Topology::synthetic, nb::arg("description"),
                    "An imaginary machine's, in hwloc's notation: \"Package:2 NUMANode:1 Core:4 PU:2\". Raises "
                    "InvalidArgument.")
        .def_prop_ro("cpus", &Topology::cpus, "CPUs that are online.")
        .def_prop_ro("usable_cpus", &Topology::usable_cpus, "Those of them that this process was given.")
        .def_prop_ro("nodes", &Topology::nodes, "NUMA nodes, by id.")
        .def_prop_ro("packages", &Topology::packages, "Packages, by id.")
        .def_prop_ro("cores", &Topology::cores, "Cores, by id.")
        .def_prop_ro("caches", &Topology::caches, "Caches, by level and lowest CPU.")
        .def("node", &Topology::node, nb::arg("id"), "The NUMA node of this id. Raises NotFound.")
        .def("package", &Topology::package, nb::arg("id"), "The package of this id. Raises NotFound.")
        .def("core", &Topology::core, nb::arg("id"), "The core of this id. Raises NotFound.")
        .def("core_of", &Topology::core_of, nb::arg("cpu"), "The core that a CPU belongs to. Raises NotFound.")
        .def(
            "one_cpu_per_core",
            [](const Topology& self, nb::handle cpus) {
                return self.one_cpu_per_core(cpus.is_none() ? self.usable_cpus() : to_cpu_set(cpus));
            },
            nb::arg("cpus").none() = nb::none(),
            nb::sig("def one_cpu_per_core(self, cpus: CpuSet | str | collections.abc.Iterable[int] | None = None) -> "
                    "CpuSet"),
            "The lowest CPU of each core among ``cpus``; None: among those that the process was given.")
        .def(
            "nearest_node",
            [](const Topology& self, nb::handle cpus) { return if_any(self.nearest_node(to_cpu_set(cpus))); },
            nb::arg("cpus"),
            nb::sig("def nearest_node(self, cpus: CpuSet | str | collections.abc.Iterable[int]) -> int | None"),
            "The id of the node that most of ``cpus`` are local to; None if none is.");
}

}  // namespace

void bind_affinity(nb::module_& module) {
    bind_cpu_set(module);
    bind_topology(module);
    nb::class_<AffinityScope>(
        module, "ScopedAffinity",
        "Pins the calling thread for the length of a ``with`` block.\n\nWhere the system refuses, "
        "or the process may use none of the CPUs, nothing is\nraised: ``reason`` says why, and the "
        "block runs unpinned.")
        .def(
            "__init__", [](AffinityScope* self, nb::handle cpus) { new (self) AffinityScope(to_cpu_set(cpus)); },
            nb::arg("cpus"), nb::sig("def __init__(self, cpus: CpuSet | str | collections.abc.Iterable[int]) -> None"))
        .def_prop_ro("reason", &AffinityScope::reason, "Why the thread was not pinned; empty if it was.")
        .def(
            "__enter__",
            [](nb::handle self) {
                auto& scope = instance<AffinityScope>(self);
                scope.enter("ScopedAffinity", scope.cpus);
                return nb::borrow(self);
            },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](AffinityScope& self, nb::args) { self.leave("ScopedAffinity"); },
            nb::sig("def __exit__(self, *exc: object) -> None"));
    nb::class_<MemoryScope>(
        module, "ScopedMemoryNode",
        "Lets memory that the calling thread touches first come from a NUMA node, for the length of "
        "a\n``with`` block. ``strict``: from no other, even if that ends the process for want of "
        "memory.\n\nRefusals as of ScopedAffinity.")
        .def(
            "__init__",
            [](MemoryScope* self, int node, bool strict) {
                new (self) MemoryScope(node, strict ? core::NodePolicy::bind : core::NodePolicy::prefer);
            },
            nb::arg("node"), nb::kw_only(), nb::arg("strict") = false)
        .def_prop_ro("reason", &MemoryScope::reason, "Why the policy was not changed; empty if it was.")
        .def(
            "__enter__",
            [](nb::handle self) {
                auto& scope = instance<MemoryScope>(self);
                scope.enter("ScopedMemoryNode", scope.node, scope.policy);
                return nb::borrow(self);
            },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](MemoryScope& self, nb::args) { self.leave("ScopedMemoryNode"); },
            nb::sig("def __exit__(self, *exc: object) -> None"));
    module.def("thread_affinity", &core::thread_affinity, "CPUs that the calling thread may run on.");
    module.def(
        "process_cpus", [] { return core::process_cpus(); },
        "CPUs that the process was given: the masks of its main thread and of the calling one when this was first "
        "asked,\n"
        "which whoever pins does.");
}

}  // namespace trtlab::bindings
