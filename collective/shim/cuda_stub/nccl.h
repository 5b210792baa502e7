// What c10d's header names of NCCL 2.28, for wheels of NCCL are 200 MB and hold one header that matters here. Nothing of NCCL
// is called: libtorch does that. Sizes and the order of fields are its ABI; shim/nccl.cpp asserts what follows from them.
#pragma once
#include <stddef.h>
#define NCCL_VERSION(major, minor, patch) ((major) * 10000 + (minor) * 100 + (patch))
#define NCCL_VERSION_CODE NCCL_VERSION(2, 28, 9)
#define NCCL_SPLIT_NOCOLOR -1
#define NCCL_UNIQUE_ID_BYTES 128

typedef struct ncclComm* ncclComm_t;
typedef struct ncclWindow_vidmem* ncclWindow_t;
typedef struct {
  char internal[NCCL_UNIQUE_ID_BYTES];
} ncclUniqueId;
typedef enum { ncclSuccess = 0, ncclRemoteError = 6, ncclInProgress = 7 } ncclResult_t;
typedef enum { ncclSum = 0, ncclProd = 1, ncclMax = 2, ncclMin = 3, ncclAvg = 4, ncclMaxRedOp = 0x7fffffff } ncclRedOp_t;
typedef enum {
  ncclInt8 = 0, ncclUint8 = 1, ncclInt32 = 2, ncclInt64 = 4, ncclHalf = 6, ncclFloat = 7, ncclDouble = 8, ncclBfloat16 = 9,
  ncclFloat8e4m3 = 10, ncclFloat8e5m2 = 11
} ncclDataType_t;
// libtorch's own constructor fills it.
typedef struct {
  size_t size;
  unsigned int words_a[6];
  const char* net_name;
  int words_b[2];
  const char* comm_name;
  int words_c[6];
} ncclConfig_t;
#define NCCL_CONFIG_INITIALIZER {}
extern "C" ncclResult_t ncclRedOpDestroy(ncclRedOp_t op, ncclComm_t comm);
