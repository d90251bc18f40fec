#include "trtlab/core/infer_bench.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>

#include "arguments.hpp"
#include "module.hpp"
#include "reports.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

using BenchHandle = Handle<core::InferBench>;
using Load = core::InferBench::Load;
using Phase = core::InferBench::Phase;

std::chrono::nanoseconds nanoseconds(const char* name, double time_s) {
    constexpr double kLongest = 1e9;  // 31 years: beyond what core accepts, and within what a nanoseconds holds
    if (!(time_s >= 0)) {
        throw core::InvalidArgument(std::string(name) + ": expected a number of seconds of at least 0, got " +
                                    std::to_string(time_s));
    }
    return std::chrono::nanoseconds(static_cast<std::int64_t>(std::min(time_s, kLongest) * 1e9));
}

Load to_load(const std::string& name) {
    if (name == "closed") return Load::closed;
    if (name == "constant") return Load::constant;
    if (name == "poisson") return Load::poisson;
    throw core::InvalidArgument("load: expected 'closed', 'constant' or 'poisson', got '" + name + "'");
}

const char* name_of(Phase phase) {
    switch (phase) {
        case Phase::warm_up:
            return "warm-up";
        case Phase::measure:
            return "measure";
        case Phase::drain:
            return "drain";
    }
    return "";
}

std::vector<core::Tensor> to_tensors(const ModelHandle& model, nb::handle inputs) {
    Arguments arguments(model);
    arguments.add_all(inputs);
    const std::span<const core::Tensor> tensors = arguments.finish();
    return {tensors.begin(), tensors.end()};
}

/// Called without the GIL, ten times a second: that is also how often signals are looked for.
std::function<void(const core::InferBench::Progress&)> to_progress(nb::handle on_progress) {
    return [on_progress](const core::InferBench::Progress& progress) {
        check_signals();
        if (on_progress.is_none()) return;
        nb::gil_scoped_acquire gil;
        try {
            on_progress(name_of(progress.phase), seconds(progress.elapsed), seconds(progress.planned),
                        progress.answered, progress.failed);
        } catch (nb::python_error& error) {
            error.restore();
            throw PythonError::fetch();
        }
    };
}

nb::dict run(const BenchHandle& self, const std::string& load, std::size_t concurrency, double rate, double warm_up_s,
             double duration_s, double drain_timeout_s, std::uint64_t max_requests, std::int64_t batch,
             std::uint64_t seed, const nb::object& on_progress) {
    Garbage::collect();
    const core::InferBench::Options options{
        .load = to_load(load),
        .concurrency = concurrency,
        .rate = rate,
        .warm_up = nanoseconds("warm_up_s", warm_up_s),
        .duration = nanoseconds("duration_s", duration_s),
        .drain_timeout = nanoseconds("drain_timeout_s", drain_timeout_s),
        .max_requests = max_requests,
        .batch = batch,
        .seed = seed,
        .on_progress = to_progress(on_progress),
        .on_signal = check_signals,
    };
    const std::shared_ptr<core::InferBench> bench = *self;
    const core::InferBench::Report report = [&] {
        const ReleasedGil unlocked;
        return bench->run(options);
    }();
    nb::dict named = to_dict(report.stats);
    named["requests"] = report.requests;
    named["failures"] = report.failures;
    named["overloaded"] = report.overloaded;
    named["unfinished"] = report.unfinished;
    named["first_error"] = report.first_error;
    named["elapsed_s"] = seconds(report.elapsed);
    named["requests_per_second"] = report.requests_per_second;
    named["inferences_per_second"] = report.inferences_per_second;
    named["latency"] = nb::cast(report.latency);
    named["issue_delay"] = nb::cast(report.issue_delay);
    named["cpu_s"] = seconds(report.cpu);
    return named;
}

}  // namespace

void bind_infer_bench(nb::module_& module) {
    nb::class_<core::Histogram>(module, "Histogram", "Counts of times in ns, from which percentiles are read.")
        .def_prop_ro("count", &core::Histogram::count, "How many.")
        .def_prop_ro("min", &core::Histogram::min, "The shortest, in ns; 0 if there is none.")
        .def_prop_ro("max", &core::Histogram::max, "The longest, in ns; 0 if there is none.")
        .def_prop_ro("mean", &core::Histogram::mean, "In ns; 0 if there is none.")
        .def("percentile", &core::Histogram::percentile, nb::arg("percent"),
             "The time in ns that ``percent`` % do not exceed, within 0.4 % of it. InvalidArgument unless 0 to 100.");

    nb::class_<BenchHandle>(module, "InferBench", "See trtlab.InferBench.")
        .def(
            "__init__",
            [](BenchHandle* self, const ModelHandle& model, const nb::dict& inputs) {
                std::vector<core::Tensor> tensors = to_tensors(model, inputs);
                new (self) BenchHandle(std::make_shared<core::InferBench>(model.shared(), std::move(tensors)));
            },
            nb::arg("model"), nb::arg("inputs"),
            nb::sig("def __init__(self, model: Model, inputs: dict[str, typing.Any]) -> None"))
        .def("run", &run, nb::kw_only(), nb::arg("load"), nb::arg("concurrency"), nb::arg("rate"), nb::arg("warm_up_s"),
             nb::arg("duration_s"), nb::arg("drain_timeout_s"), nb::arg("max_requests"), nb::arg("batch"),
             nb::arg("seed"), nb::arg("on_progress").none(),
             nb::sig("def run(self, *, load: str, concurrency: int, rate: float, warm_up_s: float, duration_s: float, "
                     "drain_timeout_s: float, max_requests: int, batch: int, seed: int, "
                     "on_progress: collections.abc.Callable[[str, float, float, int, int], object] | None) -> "
                     "dict[str, typing.Any]"));
}

}  // namespace trtlab::bindings
