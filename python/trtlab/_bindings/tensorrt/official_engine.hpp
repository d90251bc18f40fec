#pragma once

#include <nanobind/nanobind.h>

namespace trtlab::tensorrt {

/// The `nvinfer1::ICudaEngine*` inside of an object of NVIDIA's own Python API (`tensorrt.ICudaEngine`,
/// `tensorrt_rtx.ICudaEngine`). Valid as long as the object. Throws InvalidArgument for anything else.
void* official_engine(nanobind::handle object);

}  // namespace trtlab::tensorrt
