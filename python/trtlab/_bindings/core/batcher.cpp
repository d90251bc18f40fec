#include "trtlab/core/batcher.hpp"

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "arguments.hpp"
#include "module.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;

namespace {

/// Python's Batcher: a Model that takes deadlines and priorities.
class BatcherHandle : public ModelHandle {
public:
    explicit BatcherHandle(std::shared_ptr<core::Batcher> batcher) : ModelHandle(std::move(batcher)) {}
    core::Batcher& batcher() const { return static_cast<core::Batcher&>(model()); }
};

/// Seconds of the named argument, None: for ever.
std::chrono::nanoseconds to_time(const char* name, std::optional<double> seconds) {
    try {
        return to_wait(seconds).timeout;
    } catch (const core::InvalidArgument&) {
        throw core::InvalidArgument(std::string(name) + " is a number of seconds >= 0, got " +
                                    std::to_string(*seconds));
    }
}

void make_batcher(BatcherHandle* self, const ModelHandle& model, std::optional<std::size_t> max_batch_size,
                  double max_delay_s, std::optional<std::size_t> max_in_flight, bool hold_when_idle,
                  std::size_t max_queue, std::optional<double> queue_timeout_s, std::optional<double> deadline_s,
                  double deadline_slack_s, std::size_t priorities, double priority_step_s,
                  std::vector<core::PaddedAxis> padding) {
    core::Batcher::Options options{.max_delay = to_time("max_delay_s", max_delay_s),
                                   .hold_when_idle = hold_when_idle,
                                   .max_queue = max_queue,
                                   .deadline_slack = to_time("deadline_slack_s", deadline_slack_s),
                                   .priorities = priorities,
                                   .priority_step = to_time("priority_step_s", priority_step_s),
                                   .padding = std::move(padding)};
    const auto positive = [&](const char* name, std::size_t value) {
        if (value == 0)
            throw core::InvalidArgument("model '" + model.spec().name + "': " + name + " is 0, at least 1 is needed");
        return value;
    };
    if (max_batch_size) options.max_batch_size = positive("max_batch_size", *max_batch_size);
    if (max_in_flight) options.max_in_flight = positive("max_in_flight", *max_in_flight);
    if (queue_timeout_s) options.queue_timeout = to_time("queue_timeout_s", queue_timeout_s);
    if (deadline_s) options.deadline = to_time("deadline_s", deadline_s);
    const std::shared_ptr<core::Model> shared = model.shared();
    std::shared_ptr<core::Batcher> batcher;
    {
        const ReleasedGil unlocked;
        batcher = std::make_shared<core::Batcher>(shared, options);
    }
    new (self) BatcherHandle(std::move(batcher));
}

nb::object submit(const BatcherHandle& handle, nb::handle inputs, std::optional<double> deadline_s,
                  std::uint32_t priority) {
    Garbage::collect();
    Arguments arguments(handle);
    arguments.add_all(inputs);
    const std::span<const core::Tensor> tensors = arguments.finish();
    core::Batcher& batcher = handle.batcher();
    core::RequestOptions options{.priority = priority,
                                 .queue_wait = core::WaitOptions(batcher.queue_timeout(), &check_signals)};
    if (deadline_s) options.deadline = to_time("deadline_s", deadline_s);
    core::Future<core::Tensors> future;
    {
        const ReleasedGil unlocked;
        future = batcher.submit(tensors, options);
    }
    return make_future(std::move(future), handle.output_names());
}

}  // namespace

void bind_batcher(nb::module_& module) {
    nb::class_<core::PaddedAxis>(
        module, "PaddedAxis",
        "An axis of an input along which a Batcher may fill requests up, so that those of different extents are "
        "joined.")
        .def(
            "__init__",
            [](core::PaddedAxis* self, std::string input, std::size_t axis, std::vector<std::int64_t> buckets,
               double value, std::vector<std::pair<std::string, std::size_t>> trimmed) {
                new (self) core::PaddedAxis{.input = std::move(input),
                                            .axis = axis,
                                            .buckets = std::move(buckets),
                                            .value = value,
                                            .trimmed = std::move(trimmed)};
            },
            nb::arg("input"), nb::arg("axis"), nb::arg("buckets"), nb::kw_only(), nb::arg("value") = 0.0,
            nb::arg("trimmed") = std::vector<std::pair<std::string, std::size_t>>(),
            nb::sig("def __init__(self, input: str, axis: int, buckets: collections.abc.Sequence[int], *, value: float "
                    "= 0.0, trimmed: collections.abc.Sequence[tuple[str, int]] = ()) -> None"),
            "A joined request has the smallest of ``buckets`` (ascending extents) that it fits in, filled with "
            "``value``; longer\n"
            "ones are joined with those of their own extent. ``trimmed``: the outputs and their axes that are as long "
            "as this\n"
            "one; each answer is cut back to what its request had. Axis 0 is the batch and can't be padded.")
        .def_ro("input", &core::PaddedAxis::input, "The input's name.")
        .def_ro("axis", &core::PaddedAxis::axis, "Which of its axes.")
        .def_ro("buckets", &core::PaddedAxis::buckets, "The extents to which it is filled up.")
        .def_ro("value", &core::PaddedAxis::value, "What it is filled with.")
        .def_ro("trimmed", &core::PaddedAxis::trimmed, "(output, axis) pairs that are cut back.")
        .def("__repr__", [](const core::PaddedAxis& self) {
            return "PaddedAxis('" + self.input + "', " + std::to_string(self.axis) + ")";
        });

    nb::class_<BatcherHandle, ModelHandle>(
        module, "Batcher",
        "A model whose requests are joined into batches along their leading axis, and answered one by one.\n\n"
        "A request goes straight through while nothing is being computed. Those that come meanwhile are joined when "
        "the model\n"
        "is free again, as far as their other axes are equal or padded into the same bucket. Answers are views of the "
        "batch's\n"
        "outputs. When a batch fails, each of its requests is asked once more, alone: a bad one fails alone. A request "
        "can be\n"
        "cancelled until its batch is begun, and is then not computed. Inputs on a GPU are passed on without being "
        "joined.\n\n"
        "counters() has batches, batched_requests, batches_of_1, batches_of_2, batches_of_3_to_4, ... (rows), "
        "expired,\n"
        "isolated, overloaded, and what the model counts. close() closes the model, too.")
        .def(
            "__init__", &make_batcher, nb::arg("model"), nb::kw_only(), nb::arg("max_batch_size") = nb::none(),
            nb::arg("max_delay_s") = 0.002, nb::arg("max_in_flight") = nb::none(), nb::arg("hold_when_idle") = false,
            nb::arg("max_queue") = 1024, nb::arg("queue_timeout_s") = nb::none(), nb::arg("deadline_s") = nb::none(),
            nb::arg("deadline_slack_s") = 0.0, nb::arg("priorities") = 1, nb::arg("priority_step_s") = 0.1,
            nb::arg("padding") = std::vector<core::PaddedAxis>(),
            nb::sig("def __init__(self, model: Model, *, max_batch_size: int | None = None, max_delay_s: float = "
                    "0.002, max_in_flight: int | None = None, hold_when_idle: bool = False, max_queue: int = 1024, "
                    "queue_timeout_s: float | None = None, deadline_s: float | None = None, deadline_slack_s: float = "
                    "0.0, priorities: int = 1, priority_step_s: float = 0.1, padding: "
                    "collections.abc.Sequence[PaddedAxis] = ()) -> None"),
            "``max_batch_size`` rows at most (None: the model's, or 8). The model is given ``max_in_flight`` batches "
            "at "
            "a time\n"
            "(None: 2 on a GPU, else 1); with one of several in flight, requests are held for company for up to "
            "``max_delay_s``,\n"
            "with ``hold_when_idle`` also when there is none. ``max_queue`` requests wait; beyond that ``infer`` "
            "waits\n"
            "``queue_timeout_s`` (None: the model's) and raises Overloaded. ``deadline_s`` is that of requests that "
            "say nothing;\n"
            "batches are made so that deadlines are met, ``deadline_slack_s`` early. Requests of ``priorities`` levels "
            "(0 first) are\n"
            "told apart; one of level p waits for more urgent ones that come up to p * ``priority_step_s`` later.\n\n"
            "Raises InvalidArgument if the model takes no batches or the options do not fit it.")
        .def(
            "submit", &submit, nb::arg("inputs"), nb::kw_only(), nb::arg("deadline_s") = nb::none(),
            nb::arg("priority") = 0,
            nb::sig("def submit(self, inputs: collections.abc.Mapping[str, typing.Any], *, deadline_s: float | None = "
                    "None, priority: int = 0) -> Future"),
            "``infer`` with a deadline and a priority. ``inputs`` maps names to values, as in ``infer``.\n\n"
            "A request that has not been computed ``deadline_s`` seconds from now fails with Timeout. Of the levels of "
            "priority,\n"
            "0 comes first. Releases the GIL once the arguments are converted.\n"
            "Raises as ``infer``, and InvalidArgument for a priority that does not exist.");
}

}  // namespace trtlab::bindings
