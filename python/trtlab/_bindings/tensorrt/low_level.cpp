#include "low_level.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <tuple>

#include "handles.hpp"
#include "library_handle.hpp"
#include "official_engine.hpp"
#include "trtlab/cuda/library.hpp"
#include "trtlab/cuda/stream.hpp"

namespace trtlab::tensorrt {
namespace nb = nanobind;

namespace {

using bindings::ReleasedGil;
using Ints = nb::typed<nb::tuple, std::int64_t, nb::ellipsis>;

constexpr std::array<std::string_view, 5> kSeverities{"internal_error", "error", "warning", "info", "verbose"};

template <class Choices>
std::size_t choose(const Choices& choices, const std::string& given, const char* what) {
    std::string all;
    for (std::size_t i = 0; i < choices.size(); ++i) {
        if (choices[i] == given) return i;
        all += (all.empty() ? "'" : ", '") + std::string(choices[i]) + "'";
    }
    throw core::InvalidArgument(std::string(what) + ": expected one of " + all + ", got '" + given + "'");
}

Ints to_tuple(const core::Shape& shape) {
    nb::list list;
    for (const std::int64_t extent : shape) list.append(extent);
    return nb::borrow<Ints>(nb::tuple(list));
}

Library::Options to_options(const std::string& path, const std::vector<std::string>& directories,
                            const std::vector<std::string>& flavours, const std::string& version) {
    constexpr std::array kFlavours{Flavour::full, Flavour::lean, Flavour::dispatch, Flavour::rtx};
    std::array<std::string_view, kFlavours.size()> names;
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = name_of(kFlavours[i]);
    Library::Options options{.path = path, .directories = directories, .flavours = {}, .version = version};
    for (const std::string& flavour : flavours)
        options.flavours.push_back(kFlavours[choose(names, flavour, "flavours")]);
    return options;
}

RuntimeHandle make_runtime(const LibraryHandle& library, const std::string& cudart,
                           const std::optional<std::string>& device, int max_threads, bool host_code_allowed,
                           const std::optional<std::string>& log_severity) {
    Runtime::Options options{.max_threads = max_threads};
    options.host_code_allowed = host_code_allowed;
    std::shared_ptr<LogLines> lines;
    if (log_severity) {
        options.log_severity = static_cast<Severity>(choose(kSeverities, *log_severity, "log_severity"));
        lines = std::make_shared<LogLines>();
        options.log = [lines](Severity severity, std::string_view text) { lines->add(severity, text); };
    }
    const ReleasedGil unlocked;
    auto runtime =
        device ? Runtime::create(library.library,
                                 cuda::Device::named(cuda::Library::open({.path = cudart, .directories = {}}), *device),
                                 options)
               : Runtime::create_without_device(library.library, options);
    return {Held(std::move(runtime)), std::move(lines)};
}

EngineHandle deserialize(const RuntimeHandle& self, const nb::bytes& plan, const std::string& name) {
    const std::span<const std::byte> bytes(static_cast<const std::byte*>(static_cast<const void*>(plan.c_str())),
                                           plan.size());
    const auto& runtime = self.runtime.get();
    const ReleasedGil unlocked;
    return {Held(runtime->deserialize(bytes, {.name = name}))};
}

std::vector<std::pair<std::string, std::string>> take_log(const RuntimeHandle& self) {
    std::vector<std::pair<std::string, std::string>> lines;
    if (!self.lines) return lines;
    for (LogLines::Line& line : self.lines->take()) {
        lines.emplace_back(kSeverities[static_cast<std::size_t>(line.severity)], std::move(line.text));
    }
    return lines;
}

std::size_t index_of(const ExecutionContext& context, const std::string& tensor) {
    const TensorInfo& info = context.engine()->tensor(tensor);
    return static_cast<std::size_t>(&info - context.engine()->tensors().data());
}

cuda::StreamView stream_of(const ExecutionContext& context, std::uintptr_t handle) {
    return {context.engine()->runtime()->device(), reinterpret_cast<cuda::StreamHandle>(handle)};
}

/// Runs `call(context)` without the GIL, when it is this thread's turn.
template <class Call>
auto with(const ContextHandle& self, Call&& call) {
    ExecutionContext& context = *self.context.get();
    const ReleasedGil unlocked;
    const std::lock_guard turn(*self.turn);
    return call(context);
}

void bind_library(nb::module_& module) {
    using namespace nb::literals;
    const std::vector<std::string> none;
    nb::class_<LibraryHandle>(module, "Library", "One of TensorRT's shared libraries, opened.")
        .def(
            "__init__",
            [](LibraryHandle* self, const std::string& path, const std::vector<std::string>& directories,
               const std::vector<std::string>& flavours, const std::string& version) {
                const Library::Options options = to_options(path, directories, flavours, version);
                const ReleasedGil unlocked;
                new (self) LibraryHandle{Library::open(options)};
            },
            "path"_a = "", "directories"_a = none, "flavours"_a = none, "version"_a = "",
            "Open the file ``path``, or else what TRTLAB_TENSORRT_LIBRARY names, or else look through ``directories`` "
            "and the\n"
            "loader's own for one of ``flavours`` ('full', 'rtx', 'lean', 'dispatch') whose version begins with "
            "``version``.\n"
            "Raises NotFound, EngineError, InvalidArgument. Without the GIL.")
        .def_prop_ro(
            "version", [](const LibraryHandle& self) { return self.library->version(); }, "'1.4.0'")
        .def_prop_ro(
            "path", [](const LibraryHandle& self) { return self.library->path(); }, "The file that was opened.")
        .def_prop_ro(
            "flavour", [](const LibraryHandle& self) { return name_of(self.library->flavour()); },
            "'full', 'lean', 'dispatch' or 'rtx'")
        .def_prop_ro(
            "builder",
            [](const LibraryHandle& self) {
                return self.library->flavour() == Flavour::rtx ? "tensorrt_rtx" : "tensorrt";
            },
            "The Python package whose builder makes plans for it: 'tensorrt' or 'tensorrt_rtx'.")
        .def("__str__", [](const LibraryHandle& self) { return self.library->to_string(); });
    module.def(
        "find_libraries",
        [](const std::string& path, const std::vector<std::string>& directories,
           const std::vector<std::string>& flavours, const std::string& version) {
            const Library::Options options = to_options(path, directories, flavours, version);
            const ReleasedGil unlocked;
            std::vector<std::tuple<std::string, std::string, std::string, std::string>> found;
            for (const Library::Candidate& one : Library::find(options)) {
                found.emplace_back(one.path, name_of(one.flavour), one.version, one.problem);
            }
            return found;
        },
        "path"_a = "", "directories"_a = none, "flavours"_a = none, "version"_a = "",
        "What Library would look at: (path, flavour, version, problem) each.");
}

void bind_runtime(nb::module_& module) {
    using namespace nb::literals;
    module.def(
        "library_of", [](nb::object engine) { return Library::file_of(official_engine(engine)); }, "engine"_a,
        "The file of the library that has made an ICudaEngine of NVIDIA's own Python API.");
    nb::class_<RuntimeHandle>(module, "Runtime", "TensorRT's runtime on one GPU, or on none.")
        .def(
            "__init__",
            [](RuntimeHandle* self, const LibraryHandle& library, const std::string& cudart,
               const std::optional<std::string>& device, int max_threads, bool host_code_allowed,
               const std::optional<std::string>& log_severity) {
                new (self)
                    RuntimeHandle(make_runtime(library, cudart, device, max_threads, host_code_allowed, log_severity));
            },
            "library"_a, "cudart"_a, "device"_a.none(), "max_threads"_a, "host_code_allowed"_a, "log_severity"_a.none())
        .def("deserialize", &deserialize, "plan"_a, "name"_a)
        .def(
            "adopt",
            [](const RuntimeHandle& self, nb::object engine, const std::string& name) {
                void* const pointer = official_engine(engine);
                const auto& runtime = self.runtime.get();
                const ReleasedGil unlocked;
                // What keeps it alive is Python's: see keep_alive below.
                return EngineHandle{Held(runtime->adopt(pointer, nullptr, name))};
            },
            "engine"_a, "name"_a, nb::keep_alive<0, 2>(), "Take an ICudaEngine of NVIDIA's own Python API.")
        .def_prop_ro("max_threads", [](const RuntimeHandle& self) { return self.runtime.get()->max_threads(); })
        .def_prop_ro("other_bytes", [](const RuntimeHandle& self) { return self.runtime.get()->other_bytes(); })
        .def("take_log", &take_log);
}

void bind_engine(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<TensorInfo>(module, "TensorInfo", "What an engine says of one of its inputs or outputs.")
        .def_ro("name", &TensorInfo::name)
        .def_ro("input", &TensorInfo::input, "False: an output.")
        .def_prop_ro(
            "dtype",
            [](const TensorInfo& self) -> std::optional<std::string_view> {
                return self.type_known ? std::optional(core::name_of(self.dtype)) : std::nullopt;
            },
            "In numpy's words; None for a type without whole bytes.")
        .def_prop_ro(
            "shape", [](const TensorInfo& self) { return to_tuple(self.shape); }, "-1 for what is dynamic.")
        .def_ro("format", &TensorInfo::format, "In TensorRT's words.")
        .def_ro("linear", &TensorInfo::linear, "Row-major, and nothing vectorised.")
        .def_ro("on_host", &TensorInfo::on_host, "TensorRT reads or writes it in host memory.")
        .def_ro("shape_input", &TensorInfo::shape_input, "Its values decide about shapes.")
        .def_prop_ro(
            "profiles",
            [](const TensorInfo& self) {
                std::vector<std::tuple<Ints, Ints, Ints>> all;
                for (const ProfileShape& one : self.profiles) {
                    all.emplace_back(to_tuple(one.min), to_tuple(one.opt), to_tuple(one.max));
                }
                return all;
            },
            "Of an input: (min, opt, max) shapes of each profile.");

    const auto ask = [](auto method) {
        return [method](const EngineHandle& self) {
            const auto& engine = self.engine.get();
            const ReleasedGil unlocked;
            return (engine.get()->*method)();
        };
    };
    nb::class_<EngineHandle>(module, "Engine", "A network that was compiled for a GPU.")
        .def_prop_ro("name", [](const EngineHandle& self) { return self.engine.get()->name(); })
        .def_prop_ro("tensors", [](const EngineHandle& self) { return self.engine.get()->tensors(); })
        .def_prop_ro("profiles", ask(&Engine::profile_count))
        .def_prop_ro("layers", ask(&Engine::layer_count))
        .def_prop_ro("aux_streams", ask(&Engine::aux_streams))
        .def_prop_ro("refittable", ask(&Engine::refittable))
        .def_prop_ro("data_dependent", ask(&Engine::data_dependent))
        .def_prop_ro("weights_bytes", ask(&Engine::weights_bytes))
        .def_prop_ro("streamable_weights_bytes", ask(&Engine::streamable_weights_bytes))
        .def_prop_rw("weight_streaming_budget", ask(&Engine::weight_streaming_budget),
                     [](const EngineHandle& self, std::size_t size_bytes) {
                         const auto& engine = self.engine.get();
                         const ReleasedGil unlocked;
                         engine->set_weight_streaming_budget(size_bytes);
                     })
        .def(
            "activation_bytes",
            [](const EngineHandle& self, int profile) { return self.engine.get()->activation_bytes(profile); },
            "profile"_a)
        .def("describe", ask(&Engine::describe))
        .def("serialize",
             [](const EngineHandle& self) {
                 std::vector<std::byte> plan;
                 {
                     const auto& engine = self.engine.get();
                     const ReleasedGil unlocked;
                     plan = engine->serialize();
                 }
                 return nb::bytes(plan.data(), plan.size());
             })
        .def(
            "create_context",
            [](const EngineHandle& self, bool share_kernels) {
                const auto& engine = self.engine.get();
                const ReleasedGil unlocked;
                return ContextHandle{Held(engine->create_context({.share_kernels = share_kernels}))};
            },
            "share_kernels"_a, nb::keep_alive<0, 1>());
}

void bind_context(nb::module_& module) {
    using namespace nb::literals;
    nb::class_<ContextHandle>(module, "ExecutionContext", "One execution at a time of an engine.")
        .def_prop_ro(
            "profile",
            [](const ContextHandle& self) { return with(self, [](auto& context) { return context.profile(); }); })
        .def(
            "set_profile",
            [](const ContextHandle& self, int profile, std::uintptr_t stream) {
                with(self, [&](auto& context) { context.set_profile(profile, stream_of(context, stream)); });
            },
            "profile"_a, "stream"_a)
        .def(
            "set_input_shape",
            [](const ContextHandle& self, const std::string& tensor, const std::vector<std::int64_t>& shape) {
                with(self,
                     [&](auto& context) { context.set_input_shape(index_of(context, tensor), core::Shape(shape)); });
            },
            "tensor"_a, "shape"_a)
        .def(
            "shape",
            [](const ContextHandle& self, const std::string& tensor) {
                return to_tuple(with(self, [&](auto& context) { return context.shape(index_of(context, tensor)); }));
            },
            "tensor"_a)
        .def("infer_shapes",
             [](const ContextHandle& self) { with(self, [](auto& context) { context.infer_shapes(); }); })
        .def(
            "set_address",
            [](const ContextHandle& self, const std::string& tensor, std::uintptr_t address) {
                with(self, [&](auto& context) {
                    context.set_address(index_of(context, tensor), reinterpret_cast<void*>(address));
                });
            },
            "tensor"_a, "address"_a)
        .def(
            "max_output_bytes",
            [](const ContextHandle& self, const std::string& tensor) {
                return with(self, [&](auto& context) { return context.max_output_bytes(index_of(context, tensor)); });
            },
            "tensor"_a)
        .def("activation_bytes",
             [](const ContextHandle& self) {
                 return with(self, [](auto& context) { return context.activation_bytes(); });
             })
        .def(
            "set_activation_memory",
            [](const ContextHandle& self, std::uintptr_t address, std::size_t size_bytes) {
                with(self, [&](auto& context) {
                    context.set_activation_memory({reinterpret_cast<void*>(address), size_bytes,
                                                   context.engine()->runtime()->device().core_device()});
                });
            },
            "address"_a, "size_bytes"_a)
        .def(
            "enqueue",
            [](const ContextHandle& self, std::uintptr_t stream) {
                with(self, [&](auto& context) { context.enqueue(stream_of(context, stream)); });
            },
            "stream"_a)
        .def(
            "profile_layers",
            [](const ContextHandle& self, std::uintptr_t stream) {
                std::vector<std::pair<std::string, float>> layers;
                with(self, [&](auto& context) {
                    for (LayerTime& one : context.profile_layers(stream_of(context, stream))) {
                        layers.emplace_back(std::move(one.layer), one.milliseconds);
                    }
                });
                return layers;
            },
            "stream"_a);
}

}  // namespace

void bind_low_level(nb::module_& module) {
    bind_library(module);
    bind_runtime(module);
    bind_engine(module);
    bind_context(module);
}

}  // namespace trtlab::tensorrt
