// Heap blocks per request after warm-up, by who asked for them. Counted, not timed.
//
// Every function of the C library that gives memory is replaced here, `operator new` with it. Each call is charged to
// the innermost frame on the stack that belongs neither to the C nor to the C++ library: a std::string that grows is
// charged to whoever made it grow. OpenVINO's own pools, which take memory from the kernel, are not seen; ours use none.

#include <link.h>
#include <malloc.h>
#include <unwind.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <functional>
#include <vector>

#include "bare_openvino.hpp"
#include "rounds.hpp"
#include "tiny_model.hpp"
#include "trtlab/core/function_model.hpp"
#include "trtlab/core/pool.hpp"
#include "trtlab/core/thread_pool.hpp"
#include "trtlab/openvino/runner.hpp"

extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);
}

namespace {

using namespace trtlab;

enum class Owner { ours, engine, runtime, other };

struct Module {
    std::uintptr_t begin, end;
    Owner owner;
};

std::array<Module, 512> modules;
std::size_t module_count = 0;
std::atomic<bool> counting{false};
std::array<std::atomic<std::uint64_t>, 4> counts;
thread_local bool inside = false;

Owner owner_of(std::string_view file) {
    if (file.empty() || file.find("libtrtlab_") != file.npos) return Owner::ours;  // the program has no name of its own
    for (const char* name : {"libopenvino", "libtbb", "libhwloc"}) {
        if (file.find(name) != file.npos) return Owner::engine;
    }
    for (const char* name : {"libc.so", "libstdc++", "libgcc_s", "ld-linux", "libm.so", "linux-vdso", "libpthread"}) {
        if (file.find(name) != file.npos) return Owner::runtime;
    }
    return Owner::other;
}

void note_modules() {
    module_count = 0;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void*) {
            for (int i = 0; i < info->dlpi_phnum; ++i) {
                const auto& segment = info->dlpi_phdr[i];
                if (segment.p_type != PT_LOAD || (segment.p_flags & PF_X) == 0 || module_count == modules.size())
                    continue;
                const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
                modules[module_count++] = {begin, begin + segment.p_memsz, owner_of(info->dlpi_name)};
            }
            return 0;
        },
        nullptr);
}

/// The replaced functions are in the program itself: their own frames say nothing.
struct Walk {
    int own_frames;
    Owner found;
};

_Unwind_Reason_Code look(_Unwind_Context* context, void* data) {
    Walk& walk = *static_cast<Walk*>(data);
    if (walk.own_frames-- > 0) return _URC_NO_REASON;
    const std::uintptr_t at = _Unwind_GetIP(context);
    for (std::size_t i = 0; i < module_count; ++i) {
        if (at < modules[i].begin || at >= modules[i].end) continue;
        if (modules[i].owner == Owner::runtime) return _URC_NO_REASON;
        walk.found = modules[i].owner;
        return _URC_END_OF_STACK;
    }
    return _URC_NO_REASON;
}

[[gnu::noinline]] void charge() {
    if (!counting.load(std::memory_order_relaxed) || inside) return;
    inside = true;
    Walk walk{.own_frames = 2, .found = Owner::other};  // this function and the replaced one
    _Unwind_Backtrace(look, &walk);
    counts[static_cast<std::size_t>(walk.found)].fetch_add(1, std::memory_order_relaxed);
    inside = false;
}

}  // namespace

extern "C" {
[[gnu::noinline]] void* malloc(std::size_t size) {
    charge();
    return __libc_malloc(size);
}
[[gnu::noinline]] void* calloc(std::size_t count, std::size_t size) {
    charge();
    return __libc_calloc(count, size);
}
[[gnu::noinline]] void* realloc(void* block, std::size_t size) {
    charge();
    return __libc_realloc(block, size);
}
[[gnu::noinline]] void* memalign(std::size_t alignment, std::size_t size) {
    charge();
    return __libc_memalign(alignment, size);
}
[[gnu::noinline]] void* aligned_alloc(std::size_t alignment, std::size_t size) {
    charge();
    return __libc_memalign(alignment, size);
}
[[gnu::noinline]] int posix_memalign(void** block, std::size_t alignment, std::size_t size) {
    charge();
    *block = __libc_memalign(alignment, size);
    return *block == nullptr ? ENOMEM : 0;
}
}

namespace {

void add(const std::string& name, const std::function<void()>& request) {
    benchmark::RegisterBenchmark(name.c_str(), [request](benchmark::State& state) {
        for (int i = 0; i < 1000; ++i) request();
        note_modules();
        for (auto& count : counts) count = 0;
        std::uint64_t requests = 0;
        for (auto _ : state) {
            counting.store(true);
            request();
            counting.store(false);
            ++requests;
        }
        const auto each = [&](Owner owner) {
            return static_cast<double>(counts[static_cast<std::size_t>(owner)].load()) / static_cast<double>(requests);
        };
        state.counters["ours"] = each(Owner::ours);
        state.counters["engine"] = each(Owner::engine);
        state.counters["other"] = each(Owner::other);
    })->Iterations(5000);
}

}  // namespace

int main(int argc, char** argv) {
    bench::Rounds rounds(argc, argv, 3);
    const auto library = bench::open_library();
    rounds.describe("OpenVINO", library->version());
    rounds.describe("unit", "heap blocks per request, 5000 requests after 1000; time_ns is that of the counting");

    alignas(64) static std::array<float, bench::kTinyElements> x{-1, 1}, y{};
    const bench::BareOpenVino bare(*library);
    ov_infer_request_t* const request = bare.make_request(bare.compile(bare.read_memory(bench::tiny_model()), 1));
    ov_tensor_t* const output = bare.view(ov_element_type_e::F32, {1, bench::kTinyElements}, y.data());

    openvino::Runner::Options options;
    options.name = "tiny";
    options.streams = 2;
    const std::string tiny = bench::tiny_model();
    const auto runner = openvino::Runner::load_from_memory(library, std::as_bytes(std::span(tiny)), options);
    const core::Tensor input(core::TensorView(x.data(), core::DType::float32, {1, bench::kTinyElements}));
    const core::Tensor strided(core::TensorView(x.data(), core::DType::float32, {1, bench::kTinyElements}, {64, 0}));
    const std::pair<std::string_view, core::Tensor> by_name{"x", input};

    core::ModelSpec spec{
        .name = "nothing", .inputs = {{.name = "x", .shape = {1, 16}}}, .outputs = {{.name = "y", .shape = {1, 16}}}};
    core::FunctionModel function(
        spec, [](std::span<const core::Tensor> inputs) { return std::vector(inputs.begin(), inputs.end()); });
    core::Pool<int> pool(std::vector<int>(4));
    core::ThreadPool threads(1);
    std::vector<core::Future<core::Tensors>> in_flight(16);

    add("control: one std::string of 100 bytes", [] { benchmark::DoNotOptimize(std::string(100, 'x').data()); });
    add("bare infer", [&] {
        std::array<std::int64_t, 2> dims{1, bench::kTinyElements};
        ov_tensor_t* tensor = nullptr;
        bare.check(bare.tensor_create_from_host_ptr(ov_element_type_e::F32, {2, dims.data()}, x.data(), &tensor),
                   "input");
        bare.check(bare.set_input(request, 0, tensor), "set_input");
        bare.tensor_free(tensor);
        bare.check(bare.set_output(request, 0, output), "set_output");
        bare.check(bare.infer(request), "infer");
    });
    add("Runner, one at a time", [&] { (void)runner->infer({&input, 1}).get(); });
    add("Runner, input copied", [&] { (void)runner->infer({&strided, 1}).get(); });
    add("Runner, input by name", [&] { (void)runner->infer({by_name}).get(); });
    add("Runner, 16 in flight (blocks per 16)", [&] {
        for (auto& future : in_flight) future = runner->infer({&input, 1});
        for (auto& future : in_flight) (void)future.get();
    });
    add("Runner, with on_ready", [&] {
        const auto future = runner->infer({&input, 1});
        future.on_ready([] {});
        (void)future.get();
    });
    add("FunctionModel (its function makes a vector)", [&] { (void)function.infer({&input, 1}).get(); });
    add("Pool acquire and return", [&] { benchmark::DoNotOptimize(*pool.acquire()); });
    add("ThreadPool post", [&] {
        std::atomic<std::uint32_t> done{0};
        threads.post([&done] {
            done.store(1);
            done.notify_one();
        });
        done.wait(0);
    });
    add("ThreadPool submit and get", [&] { threads.submit([] {}).get(); });
    return rounds.run({});
}
