/* The part of NVIDIA's management library that the hive asks, for machines without their GPUs
 * (https://docs.nvidia.com/deploy/nvml-api/). It tells of what the file in FAKE_NVML says, as that
 * stands at each question:
 *
 *     gpu TOTAL_MIB USED_MIB UTILIZATION_PERCENT NAME...
 *     held GPU PID MIB
 *     throttled GPU REASONS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7 };
enum { MOST_GPUS = 8, MOST_HELD = 32 };

typedef struct { unsigned version; unsigned long long total, reserved, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned long long total, used; unsigned utilization; char name[96]; } Gpu;
typedef struct { unsigned long long throttled[MOST_GPUS]; unsigned gpus, held; Gpu gpu[MOST_GPUS]; unsigned on[MOST_HELD]; Process holder[MOST_HELD]; } Machine;

static Machine now(void) {
    Machine machine = {0};
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256];
    unsigned index;
    unsigned long long reasons;
    while (file && fgets(line, sizeof line, file)) {
        Gpu *gpu = &machine.gpu[machine.gpus % MOST_GPUS];
        Process *process = &machine.holder[machine.held % MOST_HELD];
        unsigned *on = &machine.on[machine.held % MOST_HELD];
        process->gpu_instance = process->compute_instance = 0xFFFFFFFF;
        if (sscanf(line, "gpu %llu %llu %u %95[^\n]", &gpu->total, &gpu->used, &gpu->utilization, gpu->name) == 4)
            machine.gpus++;
        else if (sscanf(line, "held %u %u %llu", on, &process->pid, &process->bytes) == 3)
            machine.held++;
        else if (sscanf(line, "throttled %u %llu", &index, &reasons) == 2)
            machine.throttled[index % MOST_GPUS] = reasons;
    }
    if (file) fclose(file);
    return machine;
}

/* A device's handle is its number and one, so that none is null. */
static unsigned number(void *device) { return (unsigned)((size_t)device - 1); }

int nvmlInitWithFlags(unsigned flags) { (void)flags; return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error of the stand-in"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "570.86.15");
    return SUCCESS;
}

/* 12.8 */
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = 12080; return SUCCESS; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = now().gpus;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (index >= now().gpus) return INVALID_ARGUMENT;
    *device = (void *)((size_t)index + 1);
    return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *name, unsigned length) {
    snprintf(name, length, "%s", now().gpu[number(device)].name);
    return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, Memory *memory) {
    Gpu gpu = now().gpu[number(device)];
    memory->total = gpu.total << 20;
    memory->used = gpu.used << 20;
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, Utilization *rates) {
    rates->gpu = now().gpu[number(device)].utilization;
    rates->memory = 0;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *reasons) {
    *reasons = now().throttled[number(device)];
    return SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    (void)device;
    *major = 8;
    *minor = 9;
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, Process *processes) {
    Machine machine = now();
    unsigned found = 0, room = *count;
    for (unsigned i = 0; i < machine.held; i++) {
        if (machine.on[i] != number(device)) continue;
        if (processes && found < room) {
            processes[found] = machine.holder[i];
            processes[found].bytes <<= 20;
        }
        found++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(void *device, unsigned *count, Process *processes) {
    (void)device;
    (void)processes;
    *count = 0;
    return SUCCESS;
}
