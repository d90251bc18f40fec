#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "arguments.hpp"
#include "convert.hpp"
#include "module.hpp"
#include "reports.hpp"
#include "trtlab/core/function_model.hpp"

namespace trtlab::bindings {
namespace nb = nanobind;
using core::Tensor;

ModelHandle::ModelHandle(std::shared_ptr<core::Model> model) : handle_(std::move(model)) {
    for (const core::TensorSpec& input : spec().inputs) {
        PyObject* name = nb::str(input.name.c_str(), input.name.size()).release().ptr();
        PyUnicode_InternInPlace(&name);
        input_names_.push_back(nb::steal(name));
    }
    nb::list names;
    for (const core::TensorSpec& output : spec().outputs)
        names.append(nb::str(output.name.c_str(), output.name.size()));
    output_names_ = nb::tuple(names);
    close_at_exit(handle_.unchecked());
}

namespace {

nb::object submit(const ModelHandle& handle, Arguments& arguments) {
    const std::span<const Tensor> inputs = arguments.finish();
    core::Model& model = handle.model();
    core::Future<core::Tensors> future;
    {
        const ReleasedGil unlocked;
        future = model.infer(inputs, core::WaitOptions(model.queue_timeout(), &check_signals));
    }
    return make_future(std::move(future), handle.output_names());
}

// A plain method table entry rather than a nanobind function: the keywords arrive as an array, and no dict is built.
PyObject* infer(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* keywords) noexcept {
    try {
        const ModelHandle& handle = instance<ModelHandle>(self);
        Garbage::collect();
        Arguments arguments(handle);
        if (count > 1) {
            throw core::InvalidArgument("model '" + handle.spec().name +
                                        "': infer() takes one mapping of input names to values, or keywords");
        }
        if (count == 1 && args[0] != Py_None) arguments.add_all(args[0]);
        const Py_ssize_t named = keywords == nullptr ? 0 : PyTuple_Size(keywords);
        for (Py_ssize_t i = 0; i < named; ++i) arguments.add(PyTuple_GetItem(keywords, i), args[count + i]);
        return submit(handle, arguments).release().ptr();
    } catch (const abi::__forced_unwind&) {
        wait_for_the_end();  // Python code that the arguments' conversion called lost the GIL for good
    } catch (...) {
        raise_current_exception();
        return nullptr;
    }
}

PyMethodDef infer_method[] = {
    {"infer", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(infer)), METH_FASTCALL | METH_KEYWORDS,
     "infer($self, inputs=None, /, **tensors)\n--\n\n"
     "Ask for an answer: ``model.infer(x=array)``, or ``model.infer({\"input:0\": array})`` for other names.\n\n"
     "Values: anything with a buffer or DLPack in host memory, of the input's dtype, borrowed in place until the "
     "future\n"
     "is done (do not write to it before); scalars and nested lists where the conversion loses nothing. A model on a "
     "GPU also\n"
     "reads that GPU's memory, without the host, through DLPack or ``__cuda_array_interface__``, behind the work that "
     "its "
     "exporter\n"
     "has put into its stream.\n"
     "Returns a Future of a dict: output name -> Tensor. Never waits for the answer; while the queue is full it waits\n"
     "up to the model's ``queue_timeout_s``. The GIL is released once the arguments are converted.\n\n"
     "Raises InvalidArgument (names the tensor, expected and got), NotFound (no such input), Overloaded, Closed."},
    {nullptr, nullptr, 0, nullptr}};

/// A Python callable as the function of a FunctionModel. Runs on a worker thread and takes the GIL for the call.
class PythonFunction {
public:
    PythonFunction(core::Ref<HeldObject> callable, std::shared_ptr<const core::ModelSpec> spec)
        : callable_(std::move(callable)), spec_(std::move(spec)) {}

    std::vector<Tensor> operator()(std::span<const Tensor> inputs) const {
        nb::gil_scoped_acquire gil;
        try {
            Garbage::collect();
            nb::dict arguments;
            for (std::size_t i = 0; i < inputs.size(); ++i) {
                arguments[spec_->inputs[i].name.c_str()] = nb::cast(Tensor(inputs[i]));
            }
            return outputs(nb::borrow(callable_->get())(**arguments));
        } catch (const core::InvalidArgument& mismatch) {
            throw core::EngineError(std::string(mismatch.what()) + " (returned by the model's function)");
        } catch (nb::python_error& error) {
            error.restore();
            throw PythonError::fetch();
        }
    }

private:
    std::vector<Tensor> outputs(nb::object returned) const {
        const auto& specs = spec_->outputs;
        Conversion convert(*spec_, "output", specs.size());
        std::vector<Tensor> tensors;
        if (!nb::hasattr(returned, "keys")) {
            if (specs.size() != 1) {
                throw core::EngineError("model '" + spec_->name + "': its function returned a " + type_of(returned) +
                                        ", expected a mapping of " + std::to_string(specs.size()) +
                                        " output names to values");
            }
            tensors.push_back(convert(returned, specs[0]));
            return tensors;
        }
        for (const core::TensorSpec& spec : specs) {
            const nb::str name(spec.name.c_str());
            if (!nb::cast<bool>(returned.attr("__contains__")(name))) {
                throw core::EngineError("model '" + spec_->name + "': its function returned no output '" + spec.name +
                                        "', expected " + spec.to_string());
            }
            tensors.push_back(convert(returned[name], spec));
        }
        if (nb::len(returned) != specs.size()) {
            throw core::EngineError("model '" + spec_->name +
                                    "': its function returned outputs that are not declared: " +
                                    nb::cast<std::string>(nb::str(nb::list(returned.attr("keys")()))));
        }
        return tensors;
    }

    static std::string type_of(nb::handle value) { return nb::cast<std::string>(nb::str(nb::type_name(value.type()))); }

    core::Ref<HeldObject> callable_;
    std::shared_ptr<const core::ModelSpec> spec_;
};

void make_function_model(FunctionModelHandle* self, nb::callable function, std::vector<core::TensorSpec> inputs,
                         std::vector<core::TensorSpec> outputs, std::optional<std::string> name,
                         std::size_t concurrency, std::size_t max_queue, double queue_timeout_s,
                         std::int64_t max_batch_size) {
    core::ModelSpec spec{.name = "function",
                         .inputs = std::move(inputs),
                         .outputs = std::move(outputs),
                         .max_batch_size = max_batch_size};
    if (name) {
        spec.name = *name;
    } else if (nb::hasattr(function, "__name__")) {
        spec.name = nb::cast<std::string>(nb::str(function.attr("__name__")));
    }
    const auto shared = std::make_shared<const core::ModelSpec>(spec);
    const core::FunctionModel::Options options{
        .concurrency = concurrency, .max_queue = max_queue, .queue_timeout = to_wait(queue_timeout_s).timeout};
    auto callable = core::make_ref<HeldObject>(std::move(function));
    PythonFunction call(callable, shared);
    std::shared_ptr<core::Model> model;
    {
        const ReleasedGil unlocked;
        model = std::make_shared<core::FunctionModel>(std::move(spec), std::move(call), options);
    }
    new (self) FunctionModelHandle(std::move(model), std::move(callable));
}

nb::dict counters(const ModelHandle& self) {
    nb::dict named;
    for (const auto& [name, count] : self.model().counters()) named[nb::str(name.data(), name.size())] = count;
    return named;
}

nb::list memory(const ModelHandle& self) {
    const core::Model& model = self.model();
    const std::vector<core::MemoryUse> uses = [&] {
        const ReleasedGil unlocked;
        return model.memory();
    }();
    return to_list(uses);
}

}  // namespace

int FunctionModelHandle::traverse(PyObject* self, visitproc visit, void* arg) noexcept {
    Py_VISIT(Py_TYPE(self));
    if (!nb::inst_ready(self)) return 0;
    const FunctionModelHandle& model = *nb::inst_ptr<FunctionModelHandle>(self);
    if (model.unused()) Py_VISIT(model.callable_->get().ptr());
    return 0;
}

int FunctionModelHandle::clear(PyObject* self) noexcept {
    if (!nb::inst_ready(self)) return 0;
    const FunctionModelHandle& model = *nb::inst_ptr<FunctionModelHandle>(self);
    if (model.unused()) model.callable_->clear();
    return 0;
}

void bind_model(nb::module_& module) {
    static PyType_Slot slots[] = {{Py_tp_methods, infer_method}, {0, nullptr}};
    nb::class_<ModelHandle>(module, "Model", nb::type_slots(slots), nb::is_weak_referenceable(),
                            "Something that can be asked for an answer. All members may be called from any thread.")
        .def_prop_ro("name", [](const ModelHandle& self) { return self.spec().name; })
        .def_prop_ro(
            "platform", [](const ModelHandle& self) { return self.spec().platform; },
            "What runs it: 'openvino', 'function', ...")
        .def_prop_ro(
            "inputs", [](const ModelHandle& self) { return self.spec().inputs; }, "What ``infer`` takes.")
        .def_prop_ro(
            "outputs", [](const ModelHandle& self) { return self.spec().outputs; }, "What it answers.")
        .def_prop_ro(
            "max_batch_size", [](const ModelHandle& self) { return self.spec().max_batch_size; },
            "Largest extent of the leading axis if that is a batch axis; 0 if there is none.")
        .def_prop_ro("closed", [](const ModelHandle& self) { return self.model().closed(); })
        .def(
            "stats", [](const ModelHandle& self) { return to_dict(self.model().stats()); },
            nb::sig("def stats(self) -> dict[str, int | float]"),
            "Counts (completed, failed, cancelled) and summed seconds of the completed requests: in the queue, "
            "binding inputs,\n"
            "executing, making outputs. Of those that a device timed (device_timed): the host's part of the launch "
            "(enqueue_s),\n"
            "copying inputs, computing, copying outputs (h2d_s, compute_s, d2h_s).")
        .def("counters", &counters, nb::sig("def counters(self) -> dict[str, int]"),
             "What the engine counts beyond ``stats``, such as graph_hits; empty if nothing.")
        .def("memory", &memory, nb::sig("def memory(self) -> list[trtlab.manager.MemoryUse]"),
             "What memory the model holds for itself. What it shares with others is in the manager's memory_report().\n"
             "Releases the GIL.")
        .def(
            "prefetch",
            [](const ModelHandle& self) {
                core::Model& model = self.model();
                const ReleasedGil unlocked;
                model.prefetch();
            },
            "Have weights in managed memory brought to the GPU; returns when they are there. Releases the GIL.\n"
            "Raises InvalidArgument if the model's weights do not move, CudaError.")
        .def(
            "evict",
            [](const ModelHandle& self) {
                core::Model& model = self.model();
                const ReleasedGil unlocked;
                model.evict();
            },
            "Have weights in managed memory taken off the GPU, to make room for others. The model still answers: what "
            "it needs\n"
            "comes back as it is touched. Releases the GIL. Raises as ``prefetch``.")
        .def(
            "close",
            [](const ModelHandle& self, bool cancel_pending) {
                core::Model& model = self.model();
                const ReleasedGil unlocked;
                model.close(cancel_pending ? core::Pending::cancel : core::Pending::drain);
            },
            nb::arg("cancel_pending") = false,
            "Refuse new requests and wait for those accepted, or fail those that have not begun with Closed. "
            "Idempotent.\n"
            "Releases the GIL.")
        .def(
            "__enter__", [](nb::handle self) { return nb::borrow(self); },
            nb::sig("def __enter__(self) -> typing_extensions.Self"))
        .def(
            "__exit__", [](nb::handle self, nb::args) { self.attr("close")(); },
            nb::sig("def __exit__(self, *exc: object) -> None"))
        .def("__repr__", [](const ModelHandle& self) {
            const core::ModelSpec& spec = self.spec();
            std::string text = "<trtlab.Model '" + spec.name + "' on " + spec.platform + ":";
            for (const auto& input : spec.inputs) text += " " + input.name + " " + input.to_string();
            text += " ->";
            for (const auto& output : spec.outputs) text += " " + output.name + " " + output.to_string();
            return text + ">";
        });

    static PyType_Slot function_slots[] = {{Py_tp_traverse, reinterpret_cast<void*>(&FunctionModelHandle::traverse)},
                                           {Py_tp_clear, reinterpret_cast<void*>(&FunctionModelHandle::clear)},
                                           {0, nullptr}};
    nb::class_<FunctionModelHandle, ModelHandle>(
        module, "FunctionModel", nb::type_slots(function_slots),
        "A Python callable as a model.\n\n"
        "It is called on a worker thread with one keyword argument (a read-only Tensor) an input, and returns a "
        "mapping\n"
        "of output names to arrays, or one array if there is one output. What it raises reaches the future unchanged.")
        .def("__init__", &make_function_model, nb::arg("function"), nb::arg("inputs"), nb::arg("outputs"),
             nb::kw_only(), nb::arg("name") = nb::none(), nb::arg("concurrency") = 1, nb::arg("max_queue") = 1024,
             nb::arg("queue_timeout_s") = 60.0, nb::arg("max_batch_size") = 0,
             nb::sig("def __init__(self, function: collections.abc.Callable[..., typing.Any], inputs: "
                     "collections.abc.Sequence[TensorSpec], "
                     "outputs: collections.abc.Sequence[TensorSpec], *, name: str | None = None, concurrency: int = 1, "
                     "max_queue: int = 1024, queue_timeout_s: float = 60.0, max_batch_size: int = 0) -> None"),
             "``concurrency`` calls run at the same time, ``max_queue`` wait; beyond that ``infer`` waits "
             "``queue_timeout_s``\n"
             "seconds and raises Overloaded. ``name`` defaults to the callable's.");
}

}  // namespace trtlab::bindings
