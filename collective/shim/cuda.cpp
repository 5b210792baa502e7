// libtorch's CUDA half and the shim over its NCCL (nccl.cpp): both are loaded at run time, where they are wanted and there.
#include "cuda.h"

#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guard.h"
#include <ATen/Context.h>

using morph::guard;

namespace {
using Backend = void* (*)(void*, const char*, int, int, int64_t, int);
using Uuid = void (*)(int, unsigned char*);
Backend backend = nullptr;
Uuid uuid = nullptr;

std::string reason() {
  const char* error = dlerror();
  return error ? error : "dlopen gives no reason";
}
} // namespace

namespace morph {
void* nccl_backend(void* store, const char* name, int rank, int world, int64_t timeout_ms, int device) {
  TORCH_CHECK(backend, "NCCL was not loaded");
  return backend(store, name, rank, world, timeout_ms, device);
}
} // namespace morph

extern "C" {
// The CUDA half of libtorch, where it is installed: its kernels register themselves when it is loaded.
int morph_load_cuda(int* found) {
  return guard([&] {
    *found = 1;
    if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL)) return;
    const std::string why = reason();
    // Of a library that it needs glibc says the same, under that library's name.
    if (why.rfind("libtorch_cuda.so: cannot open shared object file: No such file", 0) != 0) throw std::runtime_error(why);
    *found = 0;
  });
}

// The shim over NCCL out of the `n` bytes of its shared object. libtorch's CUDA half must have been loaded.
int morph_load_nccl(const unsigned char* bytes, size_t n) {
  return guard([&] {
    if (backend) return;
    const int file = memfd_create("morph_nccl", MFD_CLOEXEC);
    TORCH_CHECK(file >= 0, "no memory file for the shim over NCCL");
    for (size_t done = 0; done < n;) {
      const auto written = write(file, bytes + done, n - done);
      TORCH_CHECK(written > 0, "the shim over NCCL does not fit into memory");
      done += static_cast<size_t>(written);
    }
    const auto path = "/proc/self/fd/" + std::to_string(file);
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    close(file);
    TORCH_CHECK(library, "the shim over NCCL does not fit this libtorch: ", reason());
    uuid = reinterpret_cast<Uuid>(dlsym(library, "morph_nccl_uuid"));
    backend = reinterpret_cast<Backend>(dlsym(library, "morph_nccl_backend"));
    TORCH_CHECK(uuid && backend, "the shim over NCCL lacks a function: ", reason());
  });
}
int morph_gpu_uuid(int device, unsigned char* out) {
  return guard([&] {
    TORCH_CHECK(uuid, "NCCL was not loaded");
    uuid(device, out);
  });
}

int morph_set_tf32(int on) {
  return guard([&] {
    at::globalContext().setAllowTF32CuBLAS(on);
    at::globalContext().setAllowTF32CuDNN(on);
  });
}
}
