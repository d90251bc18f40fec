#include "trtlab/core/topology.hpp"

#include <hwloc.h>
#include <hwloc/distances.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <memory>
#include <system_error>
#include <type_traits>

#include "trtlab/core/affinity.hpp"
#include "trtlab/core/error.hpp"

// Nothing but this file knows hwloc.
static_assert(HWLOC_API_VERSION >= 0x00020500, "trtlab needs hwloc 2.5 or newer");

namespace trtlab::core {
namespace {

constexpr std::array kCaches = {HWLOC_OBJ_L1CACHE, HWLOC_OBJ_L2CACHE,  HWLOC_OBJ_L3CACHE,  HWLOC_OBJ_L4CACHE,
                                HWLOC_OBJ_L5CACHE, HWLOC_OBJ_L1ICACHE, HWLOC_OBJ_L2ICACHE, HWLOC_OBJ_L3ICACHE};

struct Destroy {
    void operator()(hwloc_topology_t topology) const noexcept { hwloc_topology_destroy(topology); }
};
using Handle = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, Destroy>;

/// Threads would otherwise be sent from CPU to CPU to ask each of them, and devices be asked through their drivers.
constexpr unsigned long kFlags = HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED | HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING
#if HWLOC_API_VERSION >= 0x00020800
                                 | HWLOC_TOPOLOGY_FLAG_NO_MEMATTRS | HWLOC_TOPOLOGY_FLAG_NO_CPUKINDS
#endif
    ;

[[noreturn]] void fail(const std::string& what, int error) {
    throw Error(what + ": hwloc failed: " + std::generic_category().message(error));
}

Handle prepare(const std::string& what) {
    hwloc_topology_t topology = nullptr;
    if (hwloc_topology_init(&topology) != 0) fail(what, errno);
    Handle handle(topology);
    if (hwloc_topology_set_flags(topology, kFlags) != 0) fail(what, errno);
    bool set = hwloc_topology_set_all_types_filter(topology, HWLOC_TYPE_FILTER_KEEP_NONE) == 0;
    // NUMA nodes hang on groups where a package has several of them: without, each would have all CPUs.
    set = set && hwloc_topology_set_type_filter(topology, HWLOC_OBJ_GROUP, HWLOC_TYPE_FILTER_KEEP_STRUCTURE) == 0;
    for (const hwloc_obj_type_t type : {HWLOC_OBJ_PACKAGE, HWLOC_OBJ_CORE})
        set = set && hwloc_topology_set_type_filter(topology, type, HWLOC_TYPE_FILTER_KEEP_ALL) == 0;
    for (const hwloc_obj_type_t type : kCaches)
        set = set && hwloc_topology_set_type_filter(topology, type, HWLOC_TYPE_FILTER_KEEP_ALL) == 0;
    if (!set) fail(what, errno);
    return handle;
}

CpuSet cpus_of(hwloc_const_bitmap_t bitmap) {
    if (bitmap == nullptr) return {};
    const int words = hwloc_bitmap_nr_ulongs(bitmap);
    if (words < 0) return {};  // infinite: hwloc's word for unknown
    std::vector<unsigned long> mask(static_cast<std::size_t>(words));
    hwloc_bitmap_to_ulongs(bitmap, static_cast<unsigned>(words), mask.data());
    return CpuSet::of_mask(mask);
}

template <class Visit>
void for_each(hwloc_topology_t topology, hwloc_obj_type_t type, Visit visit) {
    for (hwloc_obj_t object = nullptr; (object = hwloc_get_next_obj_by_type(topology, type, object)) != nullptr;)
        visit(*object);
}

template <class Thing>
const Thing& find(const std::vector<Thing>& things, int id, const char* kind) {
    const auto found = std::ranges::find(things, id, &Thing::id);
    if (found != things.end()) return *found;
    CpuSet ids;  // prints as a list of CPUs does
    for (const Thing& thing : things) ids.add(thing.id);
    throw NotFound("there is no " + std::string(kind) + " " + std::to_string(id) + " in this machine; there are " +
                   (ids.empty() ? "none" : ids.to_string()));
}

}  // namespace

/// Copies what hwloc found, so that nothing of it outlives the reading.
class Topology::Reader {
public:
    explicit Reader(Handle handle) : handle_(std::move(handle)), topology_(handle_.get()) {}

    Topology read() const {
        Topology read;
        read.cpus_ = cpus_of(hwloc_topology_get_topology_cpuset(topology_));
        for_each(topology_, HWLOC_OBJ_NUMANODE, [&](const hwloc_obj& node) {
            read.nodes_.push_back({static_cast<int>(node.os_index),
                                   cpus_of(node.cpuset) & read.cpus_,
                                   node.attr->numanode.local_memory,
                                   {}});
        });
        for_each(topology_, HWLOC_OBJ_PACKAGE, [&](const hwloc_obj& package) {
            read.packages_.push_back({static_cast<int>(package.os_index), cpus_of(package.cpuset)});
        });
        for_each(topology_, HWLOC_OBJ_CORE, [&](const hwloc_obj& core) {
            read.cores_.push_back({static_cast<int>(core.logical_index), cpus_of(core.cpuset)});
        });
        for (const hwloc_obj_type_t type : kCaches) {
            for_each(topology_, type, [&](const hwloc_obj& cache) { read.caches_.push_back(cache_of(cache)); });
        }
        std::ranges::sort(read.nodes_, {}, &NumaNode::id);
        std::ranges::sort(read.packages_, {}, &Package::id);
        std::ranges::stable_sort(read.caches_, {},
                                 [](const Cache& cache) { return std::make_pair(cache.level, cache.cpus.first()); });
        read_distances(read.nodes_);
        return read;
    }

private:
    static Cache cache_of(const hwloc_obj& object) {
        const auto& attributes = object.attr->cache;
        const CacheKind kind = attributes.type == HWLOC_OBJ_CACHE_DATA          ? CacheKind::data
                               : attributes.type == HWLOC_OBJ_CACHE_INSTRUCTION ? CacheKind::instruction
                                                                                : CacheKind::unified;
        return {static_cast<int>(attributes.depth), kind, attributes.size, attributes.linesize, cpus_of(object.cpuset)};
    }

    void read_distances(std::vector<NumaNode>& nodes) const {
        unsigned found = 1;
        hwloc_distances_s* distances = nullptr;
        if (hwloc_distances_get_by_type(topology_, HWLOC_OBJ_NUMANODE, &found, &distances,
                                        HWLOC_DISTANCES_KIND_MEANS_LATENCY, 0) != 0 ||
            found == 0)
            return;
        const auto release = [this](hwloc_distances_s* held) { hwloc_distances_release(topology_, held); };
        const std::unique_ptr<hwloc_distances_s, decltype(release)> held(distances, release);
        if (distances->nbobjs != nodes.size()) return;
        const auto place_of = [&](unsigned object) {
            const auto id = static_cast<int>(distances->objs[object]->os_index);
            return static_cast<std::size_t>(std::ranges::find(nodes, id, &NumaNode::id) - nodes.begin());
        };
        for (NumaNode& node : nodes) node.distances.resize(nodes.size());
        for (unsigned from = 0; from < distances->nbobjs; ++from) {
            for (unsigned to = 0; to < distances->nbobjs; ++to) {
                nodes[place_of(from)].distances[place_of(to)] =
                    static_cast<int>(distances->values[from * distances->nbobjs + to]);
            }
        }
    }

    const Handle handle_;
    const hwloc_topology_t topology_;
};

const Topology& Topology::system() {
    static const Topology topology = [] {
        const std::string what = "reading the machine's topology";
        Handle handle = prepare(what);
        if (hwloc_topology_load(handle.get()) != 0) fail(what, errno);
        Topology read = Reader(std::move(handle)).read();
        read.usable_cpus_ = read.cpus_ & process_cpus();
        return read;
    }();
    return topology;
}

Topology Topology::synthetic(const std::string& description) {
    const std::string what = "the topology '" + description.substr(0, 200) + "'";
    Handle handle = prepare(what);
    if (hwloc_topology_set_synthetic(handle.get(), description.c_str()) != 0 ||
        hwloc_topology_load(handle.get()) != 0) {
        throw InvalidArgument(what + ": expected hwloc's notation, such as \"Package:2 NUMANode:1 Core:4 PU:2\"");
    }
    Topology read = Reader(std::move(handle)).read();
    read.usable_cpus_ = read.cpus_;
    return read;
}

const Topology::NumaNode& Topology::node(int id) const { return find(nodes_, id, "NUMA node"); }
const Topology::Package& Topology::package(int id) const { return find(packages_, id, "package"); }
const Topology::Core& Topology::core(int id) const { return find(cores_, id, "core"); }

const Topology::Core& Topology::core_of(int cpu) const {
    const auto found = std::ranges::find_if(cores_, [cpu](const Core& core) { return core.cpus.contains(cpu); });
    if (found != cores_.end()) return *found;
    throw NotFound("no core has a CPU " + std::to_string(cpu) + "; this machine's CPUs are " + cpus_.to_string());
}

CpuSet Topology::one_cpu_per_core(const CpuSet& cpus) const {
    CpuSet chosen;
    CpuSet left = cpus & cpus_;
    for (const Core& core : cores_) {
        const int first = (core.cpus & left).first();
        if (first < 0) continue;
        chosen.add(first);
        left -= core.cpus;
    }
    return chosen | left;  // where nobody knows of cores, each CPU is one
}

int Topology::nearest_node(const CpuSet& cpus) const noexcept {
    const NumaNode* nearest = nullptr;
    std::size_t most = 0;
    for (const NumaNode& node : nodes_) {
        const std::size_t shared = node.cpus.count_common(cpus);
        if (shared == 0 || shared < most) continue;
        if (nearest != nullptr && shared == most && node.cpus.count() >= nearest->cpus.count()) continue;
        nearest = &node;
        most = shared;
    }
    return nearest == nullptr ? -1 : nearest->id;
}

}  // namespace trtlab::core
