/* A CUDA driver for one thread, whose device memory is host memory. Its one kernel writes what it was launched with to y. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK, INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500 };
#define MOST (1ull << 32)

static int contexts[2];
static void *stack[16], **current = stack;

int cuInit(unsigned flags) { return OK; }
int cuDriverGetVersion(int *version) { *version = 13020; return OK; }
int cuDeviceGetCount(int *count) { *count = 2; return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < 2 ? OK : 101; }
int cuDeviceGetName(char *name, int size, int device) { snprintf(name, size, "Fake %d", device); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = MOST; return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = attribute; return OK; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = contexts + device; return OK; }
int cuCtxGetCurrent(void **context) { *context = *current; return OK; }
int cuCtxPushCurrent_v2(void *context) { *++current = context; return OK; }
int cuCtxPopCurrent_v2(void **context) { *context = *current--; return OK; }
int cuCtxGetDevice(int *device) {
    *device = *current == contexts + 1;
    return *current ? OK : INVALID_CONTEXT;
}

int cuModuleLoadData(void **module, const void *image) { *module = (void *)image; return OK; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
    *function = module;
    return strcmp(name, "kernel") ? NOT_FOUND : OK;
}
int cuFuncGetAttribute(int *value, int attribute, void *function) { *value = 1024; return attribute == 1 ? OK : INVALID_VALUE; }
int cuFuncSetAttribute(void *function, int attribute, int value) { return attribute == 8 ? OK : INVALID_VALUE; }
int cuLaunchKernel(void *function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned ty, unsigned tz,
                   unsigned shared, void *stream, void **parameters, void **extra) {
    if (stream == (void *)0xdead) return INVALID_HANDLE;
    double *to = *(double **)parameters[1];
    to[0] = *(int64_t *)parameters[0], to[1] = *(int64_t *)parameters[2];
    to[2] = *(double *)parameters[4], to[3] = *(double *)parameters[5];
    to[4] = *(int64_t *)parameters[6], to[5] = *(int64_t *)parameters[7];
    to[6] = x, to[7] = (double)y * z * ty * tz, to[8] = threads, to[9] = shared, to[10] = (intptr_t)stream;
    to[11] = *current == contexts + 1, to[12] = *(int64_t *)parameters[3];
    return OK;
}

static int allocate(void **address, size_t bytes) {
    *address = bytes < MOST ? malloc(bytes) : NULL;
    return *address ? OK : OUT_OF_MEMORY;
}
static int copy(void *to, const void *from, size_t bytes) { memmove(to, from, bytes); return OK; }
static int release(void *what) { free(what); return OK; }

int cuMemAlloc_v2(void **address, size_t bytes) { return allocate(address, bytes); }
int cuMemAllocFromPoolAsync(void **address, size_t bytes, void *pool, void *stream) {
    return ((uint64_t *)pool)[1] == 1 << 25 ? allocate(address, bytes) : INVALID_VALUE;
}
int cuMemHostAlloc(void **address, size_t bytes, unsigned flags) { return allocate(address, bytes); }
int cuMemFree_v2(void *address) { return release(address); }
int cuMemFreeAsync(void *address, void *stream) { return release(address); }
int cuMemFreeHost(void *address) { return release(address); }
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) { return copy(to, from, bytes); }
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t bytes, void *stream) { return copy(to, from, bytes); }
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t bytes, void *stream) { return copy(to, from, bytes); }

/* A pool is the number of its device and the bytes that it keeps. */
int cuMemPoolCreate(void **pool, const int *wanted) {
    *pool = calloc(2, 8);
    **(uint64_t **)pool = wanted[3];
    for (int i = 4; i < 22; i++) if (wanted[i]) return INVALID_VALUE;
    return wanted[0] == 1 && wanted[1] == 0 && wanted[2] == 1 ? OK : INVALID_VALUE;
}
int cuMemPoolSetAttribute(void *pool, int attribute, uint64_t *value) {
    ((uint64_t *)pool)[1] = *value;
    return attribute == 4 ? OK : INVALID_VALUE;
}

int cuStreamCreate(void **stream, unsigned flags) { return allocate(stream, 8); }
int cuStreamDestroy_v2(void *stream) { return release(stream); }
int cuStreamSynchronize(void *stream) { return OK; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { return OK; }
int cuStreamGetCtx(void *stream, void **context) {
    *context = contexts;
    return stream == (void *)0xdead ? INVALID_HANDLE : OK;
}
int cuEventCreate(void **event, unsigned flags) { return allocate(event, 8); }
int cuEventRecord(void *event, void *stream) { return OK; }
int cuEventDestroy_v2(void *event) { return release(event); }
int cuPointerGetAttribute(int *value, int attribute, uint64_t address) {
    *value = 0;
    return address < 65536 ? INVALID_VALUE : OK;
}

int cuGetErrorName(int error, const char **name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_SOME";
    return OK;
}
int cuGetErrorString(int error, const char **text) { *text = "in so many words"; return OK; }

int cuGetProcAddress_v2(const char *name, void **function, int version, uint64_t flags, int *status) {
    char symbol[128];
    Dl_info here;
    dladdr((void *)cuInit, &here);
    void *library = dlopen(here.dli_fname, RTLD_LAZY);
    snprintf(symbol, sizeof symbol, "%s_v2", name);
    *function = dlsym(library, symbol);
    if (!*function) *function = dlsym(library, name);
    if (status) *status = !*function;
    return *function ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char *name, void **function, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, function, version, flags, NULL);
}
