// The NCCL half of the shim, as the rest of it sees it.
#pragma once
#include <cstdint>

namespace morph {
// A `c10d::Backend*` over NCCL, owned by the caller. Throws, also where it was not loaded.
void* nccl_backend(void* store, const char* name, int rank, int world, int64_t timeout_ms, int device);
} // namespace morph
