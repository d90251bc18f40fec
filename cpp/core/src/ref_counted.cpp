#include "trtlab/core/ref_counted.hpp"

namespace trtlab::core {

RefCounted::~RefCounted() = default;

}  // namespace trtlab::core
