// Names only: shim/nccl.cpp calls nothing of it.
#pragma once
#include "cusolver_common.h"
typedef struct cusolverDnContext* cusolverDnHandle_t;
