// Names only: shim/nccl.cpp calls nothing of it.
#pragma once
typedef struct cublasLtContext* cublasLtHandle_t;
