#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "convert.hpp"
#include "module.hpp"

namespace trtlab::bindings {

/// As many empty tensors as a model has inputs; on the stack, if those are few.
class TensorArray {
public:
    explicit TensorArray(std::size_t count) : count_(count) {
        if (count_ > kFew) {
            many_.resize(count_);
            tensors_ = many_.data();
        } else {
            std::uninitialized_default_construct_n(tensors_, count_);
        }
    }
    ~TensorArray() {
        if (many_.empty()) std::destroy_n(tensors_, count_);
    }
    TensorArray(const TensorArray&) = delete;
    TensorArray& operator=(const TensorArray&) = delete;

    core::Tensor& operator[](std::size_t index) noexcept { return tensors_[index]; }
    std::span<const core::Tensor> view() const noexcept { return {tensors_, count_}; }

private:
    static constexpr std::size_t kFew = 4;
    alignas(core::Tensor) std::byte few_[kFew * sizeof(core::Tensor)];
    std::vector<core::Tensor> many_;
    const std::size_t count_;
    core::Tensor* tensors_ = reinterpret_cast<core::Tensor*>(few_);
};

/// The arguments of one call, in the order of the model's inputs.
class Arguments {
public:
    explicit Arguments(const ModelHandle& model)
        : model_(model),
          spec_(model.spec()),
          convert_(spec_, "input", spec_.inputs.size()),
          tensors_(spec_.inputs.size()) {}

    void add(nanobind::handle name, nanobind::handle value) {
        const std::size_t index = find(name);
        if ((given_[index / 64] & bit(index)) != 0) {
            throw core::InvalidArgument("model '" + spec_.name + "', input '" + spec_.inputs[index].name +
                                        "' was given twice");
        }
        given_[index / 64] |= bit(index);
        ++count_;
        tensors_[index] = convert_(value, spec_.inputs[index]);
    }

    /// Everything in a mapping of input names to values.
    void add_all(nanobind::handle mapping) {
        if (PyDict_CheckExact(mapping.ptr())) {
            PyObject *name = nullptr, *value = nullptr;
            Py_ssize_t at = 0;
            while (PyDict_Next(mapping.ptr(), &at, &name, &value) != 0) {
                // Converting may run Python code, which may change the dict.
                const nanobind::object kept_name = nanobind::borrow(name), kept_value = nanobind::borrow(value);
                add(kept_name, kept_value);
            }
            return;
        }
        if (!nanobind::hasattr(mapping, "items")) {
            throw core::InvalidArgument(
                "model '" + spec_.name +
                "': expected a mapping of input names to values, or keywords, not one bare value");
        }
        for (nanobind::handle item : mapping.attr("items")()) add(nanobind::object(item[0]), nanobind::object(item[1]));
    }

    std::span<const core::Tensor> finish() {
        if (count_ != spec_.inputs.size()) {
            std::string message = "model '" + spec_.name + "', missing input";
            const char* separator = count_ + 1 == spec_.inputs.size() ? " " : "s ";
            for (std::size_t i = 0; i < spec_.inputs.size(); ++i) {
                if ((given_[i / 64] & bit(i)) != 0) continue;
                message += separator + ("'" + spec_.inputs[i].name + "': expected " + spec_.inputs[i].to_string());
                separator = ", ";
            }
            throw core::InvalidArgument(message);
        }
        return tensors_.view();
    }

private:
    static constexpr std::uint64_t bit(std::size_t index) noexcept { return std::uint64_t{1} << (index % 64); }

    std::size_t find(nanobind::handle name) const {
        const auto& names = model_.input_names();
        // Keyword names are interned, as ours are: the same string is the same object.
        for (std::size_t i = 0; i < names.size(); ++i) {
            if (names[i].ptr() == name.ptr()) return check(i);
        }
        std::string text;
        if (!nanobind::try_cast(name, text)) {
            throw core::InvalidArgument("model '" + spec_.name + "': inputs are named by strings, got " +
                                        nanobind::cast<std::string>(nanobind::str(nanobind::repr(name))));
        }
        return check(spec_.input_index(text));
    }

    std::size_t check(std::size_t index) const {
        if (index >= given_.size() * 64)
            throw core::InvalidArgument("model '" + spec_.name + "' has more inputs than the supported 1024");
        return index;
    }

    const ModelHandle& model_;
    const core::ModelSpec& spec_;
    Conversion convert_;
    TensorArray tensors_;
    std::array<std::uint64_t, 16> given_{};
    std::size_t count_ = 0;
};

}  // namespace trtlab::bindings
